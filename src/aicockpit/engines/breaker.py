"""Circuit breaker of one engine: pure, the clock is passed in. A 4xx is the client's fault and never counts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Breaker:
    """Closed until `threshold` failures in a row; then open for `cool_s`; then one trial request decides.

    `now` is a monotonic clock in seconds.
    """

    threshold: int = 5
    cool_s: float = 5.0
    failures: int = 0
    open_until: float = 0.0
    trial: bool = False

    def allows(self, now: float) -> bool:
        """May a request be sent? Half open, only while no trial is out."""
        if self.failures < self.threshold:
            return True
        return now >= self.open_until and not self.trial

    def sent(self) -> bool:
        """A request was sent. True: the circuit is half open, and this request is the trial."""
        if self.failures < self.threshold:
            return False
        self.trial = True
        return True

    def succeeded(self) -> None:
        """The engine answered (any status below 500), to the end."""
        self.failures, self.trial = 0, False

    def failed(self, now: float) -> None:
        """The engine refused, broke off or answered 5xx (not 503 for being busy)."""
        self.failures += 1
        self.trial = False
        if self.failures >= self.threshold:
            self.open_until = now + self.cool_s

    def trial_over(self) -> None:
        """The trial ended, whatever it showed: with nothing learnt (the client left), the next one is the trial."""
        self.trial = False

    @property
    def open(self) -> bool:
        return self.failures >= self.threshold
