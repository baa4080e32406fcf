"""What loading and computing cost, measured while the engine works: the numbers that the chooser decides by."""

from __future__ import annotations

import json
import os
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

Clock = Callable[[], float]

_STEPS = 32
# A step with fewer prompt tokens says little of how fast they are computed.
MIN_TOKENS = 64
_NEW_SHARE = 0.5
STALE_S = 30.0
# A step that took this many times what was expected was disturbed; three in a row are the new normal.
_DISTURBED = 3.0


@dataclass(frozen=True, slots=True)
class LoadRate:
    """`block_s`: seconds for one block, the file's latency included. `at`: when it was last measured."""

    block_s: float
    at: float


@dataclass(frozen=True, slots=True)
class ComputeRate:
    """Seconds to compute one token at position p: `token_s + p * slope_s` (attention looks back over p tokens)."""

    token_s: float
    slope_s: float

    def seconds(self, first: int, last: int) -> float:
        """To compute tokens `first` up to, not including, `last`."""
        count = last - first
        return count * (self.token_s + self.slope_s * (first + last - 1) / 2)


class LoadMeter:
    """A moving mean over loads. The loader's thread adds, the engine's tells of what it did not wait for, others read
    `rate`."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self.rate: LoadRate | None = None

    def add(self, blocks: int, seconds: float) -> None:
        """`blocks` files were read, checked and put in place one after the other in `seconds`."""
        if blocks <= 0 or seconds <= 0:
            return
        block_s = seconds / blocks
        with self._lock:
            if not self.stale and self.rate is not None:
                share = 1 - (1 - _NEW_SHARE) ** min(blocks / 8, 4.0)
                block_s = self.rate.block_s + share * (block_s - self.rate.block_s)
            self.rate = LoadRate(block_s, self._clock())

    def at_least(self, block_s: float) -> None:
        """A load was cut before its end was seen: a block takes so long or longer. It counts at once, as an old
        measurement, which the next one replaces."""
        with self._lock:
            if self.rate is None or self.rate.block_s < block_s:
                self.rate = LoadRate(block_s, self._clock() - STALE_S)

    @property
    def stale(self) -> bool:
        """Unknown, or measured too long ago."""
        return self.rate is None or self._clock() - self.rate.at >= STALE_S


class ComputeMeter:
    """A line through the last steps that were mostly prefill, by least squares over tokens and tokens x position.

    An engine's first step is slower than any other: it counts where nothing else is known, until there is one with as
    many tokens.
    """

    def __init__(self, rate: ComputeRate | None = None) -> None:
        self.rate = rate
        self._steps: deque[tuple[float, float, float]] = deque(maxlen=_STEPS)
        self._disturbed = 0
        self._first, self._slow = True, False

    def add(self, tokens: int, mean_position: float, other_tokens: int, seconds: float) -> None:
        """A step computed `tokens` prompt tokens around `mean_position`, and `other_tokens` of other requests'
        decoding."""
        if tokens < MIN_TOKENS or other_tokens * 8 > tokens or seconds <= 0:
            return
        if self._steps and self.rate is not None:
            expected = tokens * (self.rate.token_s + self.rate.slope_s * mean_position)
            if seconds > _DISTURBED * expected and self._disturbed < 2:
                self._disturbed += 1
                return
        self._disturbed = 0
        if self._first:
            self._first = False
            if self.rate is not None:  # what an earlier engine left is better
                return
            self._slow = True
        elif self._slow and tokens >= self._steps[0][0]:
            self._slow = False
            self._steps.popleft()
        self._steps.append((float(tokens), tokens * mean_position, seconds))
        self.rate = fit(list(self._steps))


def fit(steps: list[tuple[float, float, float]]) -> ComputeRate:
    """Least squares of seconds = a * tokens + b * tokens * position, both never negative."""
    xx = sum(x * x for x, _, _ in steps)
    xz = sum(x * z for x, z, _ in steps)
    zz = sum(z * z for _, z, _ in steps)
    xy = sum(x * y for x, _, y in steps)
    zy = sum(z * y for _, z, y in steps)
    determinant = xx * zz - xz * xz
    # Nearly one position only: no slope can be told from it.
    if determinant > 1e-3 * xx * zz:
        token_s, slope_s = (xy * zz - zy * xz) / determinant, (zy * xx - xy * xz) / determinant
        if token_s > 0 and slope_s >= 0:
            return ComputeRate(token_s, slope_s)
    return ComputeRate(xy / xx, 0.0)


def remembered(path: str) -> ComputeRate | None:
    """The rate of an earlier engine with the same key: after a restart nothing is measured yet. None: there is none."""
    try:
        # Not blocking: whatever lies there under our name may be a pipe.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(handle, "rb") as file:
            found = json.loads(file.read(1000) if stat.S_ISREG(os.fstat(handle).st_mode) else b"")
        rate = ComputeRate(float(found["token_s"]), float(found["slope_s"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rate if 0 < rate.token_s < 60 and 0 <= rate.slope_s < 1 else None


def remember(path: str, rate: ComputeRate) -> None:
    """Leave the rate for the next engine; where that fails it measures anew."""
    partial = f"{path}.{os.urandom(4).hex()}"
    try:
        with open(partial, "w") as file:
            json.dump({"token_s": rate.token_s, "slope_s": rate.slope_s}, file)
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            os.unlink(partial)
