"""The processes of one engine: start them and wait until it works, end them and put away what they leave.

Used by `process.py`, whose owner task runs everything here; nothing here changes an engine's state.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aicockpit.engines import kv, reasons
from aicockpit.engines.child import Child
from aicockpit.engines.engine import Engine
from aicockpit.engines.gpus import GpuTurns
from aicockpit.engines.health import Canary, Cards, HealthLimits, Locked, served_models, until_ready
from aicockpit.engines.logs import LogSink
from aicockpit.engines.orphans import MARK, end_marked
from aicockpit.engines.reasons import Reason
from aicockpit.engines.restart import RestartPolicy
from aicockpit.errors import ConnectFailed, EngineStartError, UpstreamLost, UpstreamTimeout
from aicockpit.types import EngineSpec

log = logging.getLogger(__name__)

# sun_path of a Unix socket, less its final zero byte.
_SOCKET_PATH_LIMIT = 107
_EVIDENCE_LINES = 64
_LOCKED = Reason(
    "the engine asks for an API key",
    "remove --api-key from its flags: the gateway asks for keys, its socket is private",
    True,
)


@dataclass(frozen=True, slots=True)
class Limits:
    """Every wait of an engine's life, in seconds."""

    start_wait: float = 1800.0
    drain_wait: float = 20.0
    term_wait: float = 10.0
    kill_wait: float = 10.0
    orphan_grace: float = 5.0  # between SIGTERM and SIGKILL when the gateway died
    ready_poll: float = 0.25
    models_wait: float = 5.0
    first_generation_wait: float = 60.0
    sleep_wait: float = 120.0  # weights move between the GPU and the host's memory
    health: HealthLimits = field(default_factory=HealthLimits)
    restart: RestartPolicy = field(default_factory=RestartPolicy)


class StartFailed(EngineStartError):
    """One start failed. `fatal`: so will every other."""

    fatal = False


@dataclass(slots=True)
class Running:
    """A started engine that generated its first token."""

    child: Child
    canary: Canary


class Starter:
    """Knows how to start and end `engine`. `on_stage` is told how far a start has come."""

    def __init__(
        self,
        engine: Engine,
        spec: EngineSpec,
        limits: Limits,
        sink: LogSink,
        gpus: GpuTurns,
        environ: Mapping[str, str],
        on_stage: Callable[[str], None],
    ) -> None:
        self.child: Child | None = None
        self._engine, self.spec, self._limits, self._sink = engine, spec, limits, sink
        self._gpus, self._environ, self._on_stage = gpus, environ, on_stage
        # Lines that may say why the engine ends: of a start the first ones count, of a running engine the last.
        self._evidence: deque[str] = deque()
        self._starting = False
        sink.on_line = self._read_line

    async def start(self) -> Running:
        """One attempt. Raises StartFailed; however it ends but by returning, it leaves no process."""
        if self.spec.gpus:
            self._on_stage("waiting for its turn on the GPU")
        try:
            async with self._gpus.turn(self.spec.gpus, self.spec.name, self._alive):
                self._evidence, self._starting = deque(), True
                try:
                    child = self.child = self._spawn()
                    self._on_stage("importing")  # ten seconds and more before the first line
                    running = Running(child, await self._until_ready(child))
                finally:
                    self._starting = False
                self._evidence = deque(maxlen=_EVIDENCE_LINES)
                self._engine.breaker.succeeded()  # it has generated: the failures were those of the process before
                return running
        except BaseException:
            if self.child is not None:
                await self.end(self.child, term_wait=self._limits.term_wait)
            raise

    def _alive(self) -> bool:
        return self.child is not None and not self.child.exited.done()

    def _spawn(self) -> Child:
        try:
            self._sink.begin()
            prepare_socket(self.spec.uds)
            return Child.spawn(self.spec.argv, self._environ, self._sink, self._limits.orphan_grace)
        except OSError as error:
            raise self.failure(Reason(f"it could not be started: {error}")) from error

    async def _until_ready(self, child: Child) -> Canary:
        """Also learns what the engine serves beside what it was told to: LoRA modules, say."""
        limits = self._limits
        ready = asyncio.create_task(
            until_ready(
                self._engine.upstream,
                poll_s=limits.ready_poll,
                models_wait=limits.models_wait,
                generation_wait=limits.first_generation_wait,
            )
        )
        events: set[asyncio.Future[Any]] = {ready, child.exited}
        try:
            await asyncio.wait(events, timeout=limits.start_wait, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await cancel(ready)
        if child.exited.done():
            raise self.failure(self.explain(child))
        if not ready.cancelled():
            try:
                canary, cards = ready.result()
            except Locked as error:
                raise self.failure(_LOCKED) from error
            self._engine.answers = canary.path
            self._serves(cards)
            await self._read_kv()
            return canary
        raise self.failure(
            Reason(
                f"it was not ready after {limits.start_wait:g} s; last stage: {self._engine.stage}",
                "raise AICOCKPIT_START_WAIT if the model is large or the disk slow",
            )
        )

    async def sleep(self) -> bool:
        """Weights to the host's memory, KV cache gone. False when the engine would not."""
        return await self._ask("/sleep?level=1&mode=wait", self._limits.sleep_wait)

    async def wake(self, running: Running) -> Running:
        """Back from `sleep`. Raises StartFailed; however it ends but by returning, it leaves no process."""
        if self.spec.gpus:
            self._on_stage("waiting for its turn on the GPU")
        try:
            async with self._gpus.turn(self.spec.gpus, self.spec.name, self._alive):
                self._on_stage("waking")
                woken = await self._ask("/wake_up", self._limits.sleep_wait)
                if woken and await running.canary.sings(self._limits.first_generation_wait):
                    self._engine.breaker.succeeded()
                    return running
                raise self.failure(Reason("it did not wake from its sleep"))
        except BaseException:
            await self.end(running.child, term_wait=self._limits.term_wait)
            raise

    async def _ask(self, target: str, limit_s: float) -> bool:
        try:
            status, _ = await self._engine.upstream.fetch("POST", target, b"", limit_s=limit_s)
        except (ConnectFailed, UpstreamLost, UpstreamTimeout):
            return False
        return 200 <= status < 300

    def respec(self, spec: EngineSpec, environ: Mapping[str, str]) -> None:
        """The next start uses these. The new names count at once, beside those that only the engine itself knew."""
        engine, known = self._engine, self.spec.served_names
        learned = [name for name in engine.cards if engine.ready and name not in known]
        engine.served_names = tuple(dict.fromkeys((*spec.served_names, *learned)))
        engine.role, engine.files, engine.kv_events = spec.role, spec.model, spec.kv_events
        self.spec, self._environ = spec, environ

    async def refresh(self) -> None:
        """Ask again what the engine serves. Raises as `Upstream.fetch` does."""
        status, cards = await served_models(self._engine.upstream, self._limits.models_wait)
        if status == 200:
            self._serves(cards)

    async def _read_kv(self) -> None:
        """How large its KV cache became, against what was predicted."""
        try:
            info = await kv.read(self._engine.upstream, self._limits.models_wait)
        except (ConnectFailed, UpstreamLost, UpstreamTimeout):
            return
        tokens = self._engine.kv_tokens = None if info is None else info.tokens
        predicted = self._engine.predicted_kv_tokens = self.spec.predicted_kv_tokens
        if tokens and predicted:
            off = 100 * (predicted / tokens - 1)
            log.info(
                "engine %s: %d tokens of KV cache, predicted %d (%+.1f %%)", self.spec.name, tokens, predicted, off
            )

    def _serves(self, cards: Cards) -> None:
        self._engine.cards = cards
        self._engine.served_names = tuple(dict.fromkeys((*self.spec.served_names, *cards)))

    def explain(self, child: Child) -> Reason:
        """Why an engine ended that was not told to."""
        status = child.exited.result()
        if status < 0:
            return Reason(f"the guard of the engine was killed by signal {-status}")
        return reasons.explain(list(self._evidence), status)

    def failure(self, reason: Reason) -> StartFailed:
        path = self._sink.path
        error = StartFailed(reason.text, reason.fix, str(path) if path else "")
        error.fatal = reason.fatal
        return error

    async def end(self, child: Child, *, term_wait: float) -> None:
        """SIGTERM, `term_wait`, SIGKILL to every descendant, `kill_wait`; nothing to do for one that has ended."""
        clean = await child.end(term_wait, self._limits.kill_wait)
        if not clean or child.exited.result() < 0:
            await self._sweep()
        self.child = None
        self._engine.pid = None
        self._engine.upstream.close()
        self._sink.end()

    async def _sweep(self) -> None:
        """The guard could not do its work, or was killed: the mark tells what is left of the engine."""
        mark = self._environ.get(MARK)
        ended = await asyncio.to_thread(end_marked, mark, ours=True) if mark else []
        log.error("engine %s: its guard was lost; ended %s", self._engine.name, ended or "nothing more")

    def _read_line(self, line: str) -> None:
        if self._starting and (stage := reasons.stage(line)) is not None and stage != self._engine.stage:
            self._on_stage(stage)
        wanted = not self._starting or len(self._evidence) < _EVIDENCE_LINES
        if wanted and reasons.tells(line):
            self._evidence.append(line)


async def cancel(task: asyncio.Task[Any]) -> None:
    """Cancel, once, and wait for the end: a second cancellation would interrupt the cleaning up."""
    if not task.done():
        if not task.cancelling():
            task.cancel()
        await asyncio.wait({task})


def prepare_socket(path: str) -> None:
    """Make the folder, private; remove what an earlier engine left. Raises OSError with a sentence."""
    if not path:
        return
    if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT:
        raise OSError(
            f"the socket path {path!r} is longer than the {_SOCKET_PATH_LIMIT} bytes that a Unix socket may have; "
            "use a shorter AICOCKPIT_STATE_DIR"
        )
    folder = Path(path).parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if stat.S_IMODE(folder.stat().st_mode) & 0o077:
        raise OSError(f"the socket folder {folder} is open to other users; run `chmod 700 {folder}`")
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise OSError(f"{path} exists and is not a socket; remove it")
    os.unlink(path)
