"""One run of the workshop's process, as the builder sees it: questions go in, answers come out, and it may die."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import pickle
from collections import deque
from collections.abc import Sequence
from typing import Any

from aicockpit.workspace.builds import BuildFailed
from aicockpit.workspace.workshop import FRAME, GO_ON, LEAVE

logger = logging.getLogger(__name__)

STOP_S = 5.0
_STDERR_LINE = 1 << 16

# (True, result), (False, why not), or (None, None): a portion is done, and there are more.
Reply = tuple[bool | None, Any]


class Died(BuildFailed):
    """The child ended before it answered. `heard`: it may have died of the question; else it was dead before."""

    def __init__(self, message: str, heard: bool = True) -> None:
        super().__init__(message)
        self.heard = heard


class Child:
    """`ask` and `go_on` are not for two at a time, but may be cancelled. Both raise Died when the process ends before
    it answers, or does not answer within `limit_s` seconds (then it is killed).
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._count = 0
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._said: deque[str] = deque(maxlen=20)
        self._hear = asyncio.create_task(self._read(), name="builder answers")
        self._listen = asyncio.create_task(self._read_errors(), name="builder stderr")

    @classmethod
    async def start(cls, command: Sequence[str]) -> Child:
        """Raises BuildFailed."""
        pipe = asyncio.subprocess.PIPE
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=pipe, stdout=pipe, stderr=pipe, limit=_STDERR_LINE, start_new_session=True,
                env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
            )  # fmt: skip
        except OSError as error:
            raise BuildFailed(f"the builder's process cannot be started: {error}") from error
        return cls(process)

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def ended(self) -> bool:
        return self._hear.done()

    def number(self) -> int:
        """Names a call of this child, for the next three."""
        self._count += 1
        return self._count

    async def ask(self, number: int, name: str, values: tuple[object, ...], limit_s: float) -> Reply:
        """The first portion of a call."""
        return await self._exchange(number, name, name, values, limit_s)

    async def go_on(self, number: int, name: str, limit_s: float) -> Reply:
        """The next portion of a call, by the same name, whose last reply was None."""
        return await self._exchange(number, name, GO_ON, (), limit_s)

    def leave(self, number: int) -> None:
        """Nobody waits for that call any more: what it has done so far is thrown away."""
        if not self.ended:
            with contextlib.suppress(OSError, RuntimeError):
                self._send(number, LEAVE, ())

    async def close(self) -> None:
        """It ends by itself when its input does; one that is in the middle of something is killed."""
        self._kill()
        await self._process.wait()
        await asyncio.wait([self._hear, self._listen], timeout=STOP_S)
        for task in (self._hear, self._listen):
            task.cancel()
        self._input.close()
        with contextlib.suppress(OSError):
            await self._input.wait_closed()

    async def _exchange(self, number: int, name: str, sent: str, values: tuple[object, ...], limit_s: float) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[number] = future
        heard = True
        try:
            if self.ended:
                raise Died(self._reason(), heard=False)
            async with asyncio.timeout(limit_s):
                try:
                    self._send(number, sent, values)
                    await self._input.drain()
                except (OSError, RuntimeError):  # RuntimeError: uvloop's, for an input that it has closed already
                    heard = False
                    self._kill()  # it hears nothing any more; of its end tells the reader, with the reason
                return await future
        except TimeoutError as error:
            self._kill()
            raise Died(f"no answer to {name!r} within {limit_s:g} s") from error
        except Died as error:
            # One that was dead before its first question, or that dies in the middle of a call, is no accident.
            error.heard = (error.heard and heard) or number == 1 or sent == GO_ON
            raise
        finally:
            del self._waiting[number]

    def _send(self, number: int, name: str, values: tuple[object, ...]) -> None:
        body = pickle.dumps((number, name, values), pickle.HIGHEST_PROTOCOL)
        self._input.write(FRAME.pack(len(body)) + body)

    @property
    def _input(self) -> asyncio.StreamWriter:
        assert self._process.stdin is not None
        return self._process.stdin

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def _reason(self) -> str:
        last = next((line for line in reversed(self._said) if line.strip()), "")
        status = self._process.returncode
        how = "" if status is None else f"killed by signal {-status}" if status < 0 else f"exit status {status}"
        return ": ".join(part for part in (how, last) if part) or "it closed its output"

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            while True:
                head = await self._process.stdout.readexactly(FRAME.size)
                body = await self._process.stdout.readexactly(FRAME.unpack(head)[0])
                number, fine, value = pickle.loads(body)
                future = self._waiting.get(number)
                if future is not None and not future.done():
                    future.set_result((fine, value))
        except (asyncio.IncompleteReadError, ConnectionError):
            await self._process.wait()
            await asyncio.wait([self._listen], timeout=1.0)
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(Died(self._reason()))

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with contextlib.suppress(ValueError, ConnectionError):  # ValueError: a line beyond the limit
            while line := await self._process.stderr.readline():
                text = line.decode("utf-8", "replace").rstrip()
                self._said.append(text)
                logger.debug("builder: %s", text)
