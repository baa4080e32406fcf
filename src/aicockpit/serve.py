"""`aicockpit serve`: the composition root. Builds every object, walks through a start, waits, walks through a stop.

settings -> lock, orphans -> doors open (/health answers) -> roster: plan, model files -> engines -> ready -> banner
signal -> requests in work finish -> engines stop -> lock released
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import shlex
import signal
import stat
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from aicockpit import console as screen
from aicockpit.controls import Controls, reloading
from aicockpit.engines.engine import Engine
from aicockpit.engines.orphans import StateLock, sweep
from aicockpit.engines.supervisor import Supervisor
from aicockpit.engines.swapper import Swapper
from aicockpit.errors import SettingError
from aicockpit.gateway.admin import readiness
from aicockpit.gateway.app import Gateway
from aicockpit.gateway.auth import mint
from aicockpit.gateway.server import Doors, build
from aicockpit.hardware import detect
from aicockpit.recipes import command, flags, fleet
from aicockpit.recipes.arrange import Plan
from aicockpit.roster import Roster
from aicockpit.settings import Settings
from aicockpit.types import EngineState
from aicockpit.warm import WarmSide

logger = logging.getLogger(__name__)

_LOOK_S = 0.2
# Workspaces and documentation are served all the same.
_NO_MODEL = (
    "Name a model, then start again: `aicockpit serve --model Qwen/Qwen2.5-Coder-1.5B-Instruct`, or `make start-dev`, "
    "which picks one for this machine."
)
# What a shell reports for a command that Ctrl-C ended.
_INTERRUPTED = 130


async def serve(settings: Settings, console: Console) -> int:
    """Run until a signal. Returns the exit code; raises AicockpitError when it cannot start."""
    _make_private(settings.state_dir)
    _make_private(settings.run_dir)
    with StateLock(settings.state_dir):
        stopping = Stopping()
        async with stopping.listen():
            return await _serve(settings, console, stopping)


def _make_private(folder: Path) -> None:
    """Keys, logs and sockets are for this user alone. The folder may lie in one that all may write to."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise SettingError(f"{folder} is not a folder of yours. Remove it, or set another AICOCKPIT_STATE_DIR.")
    folder.chmod(0o700)


async def _serve(settings: Settings, console: Console, stopping: Stopping) -> int:
    _check_early(settings)
    asked = fleet.ask(settings)  # a mistake in the file is told at once
    if asked.models:
        command.command(settings)  # is there a vLLM at all?
    controls = Controls(Roster(settings, lambda *_: None))
    key = _key(settings)
    warm = WarmSide(settings, controls.engines)
    aliases = controls.roster.aliases
    gateway = build(settings, controls, aliases, (key,) * bool(key), _gpus, detect.used_memory, warm.parts(), controls)
    doors = Doors(gateway, settings.host, settings.port, settings.run_dir / "gateway.sock", settings.stop_wait)
    await doors.open()
    stopping.hurried.append(doors.hurry)
    waking: list[asyncio.Task[None]] = []

    async def begin() -> None:
        await warm.begin(gateway.forwarder)
        waking.append(asyncio.create_task(_wake(controls, gateway, warm)))
        waking.append(asyncio.create_task(controls.roster.stamp()))
        waking.append(asyncio.create_task(controls.roster.trim()))

    hangup = contextlib.ExitStack()
    hangup.enter_context(reloading(controls, console))
    try:
        if not await stopping.during(_start(settings, controls, console, stopping, begin)):
            return _INTERRUPTED
        _banner(console, settings, doors.port, key, controls.engines, readiness(gateway.directory, None))
        _settle_memory()
        await stopping.wait()
        return 0
    finally:
        console.print(_farewell(gateway.inflight), style="dim")
        for task in waking:
            task.cancel()
        try:
            await controls.close()  # first: who waits for a model is not in work
            await doors.close()
            await warm.close()
        finally:  # whatever failed, no engine may stay
            if controls.supervisor is not None:
                await controls.supervisor.close()
            await controls.roster.close()
            hangup.close()
        console.print("Stopped; no process is left.", style="dim")


def _check_early(settings: Settings) -> None:
    """What can be known to be wrong before a model is fetched, which may take hours. Raises SettingError."""
    flags.refuse_variables(os.environ, "the environment")
    flags.refuse(settings.engine_args, "AICOCKPIT_ENGINE_ARGS", flags.reader(settings))


def _settle_memory() -> None:
    """What a start leaves behind lives as long as the server: keep the collector from walking over it under load."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _wake(controls: Controls, gateway: Gateway, warm: WarmSide) -> None:
    """An engine that came back may take the background work that waits, and is warmed again."""
    while controls.supervisor is not None:
        await controls.supervisor.changed()
        gateway.forwarder.wake()
        warm.wake()


async def _start(
    settings: Settings,
    controls: Controls,
    console: Console,
    stopping: Stopping,
    begin: Callable[[], Coroutine[None, None, None]],
) -> None:
    """`begin` is awaited once the engines are known, before they are ready: the first that is may be warmed at once."""
    roster = controls.roster
    with screen.Steps(console) as steps:
        ended = await sweep(settings.state_dir)
        if ended:
            steps.end("clean up", f"ended {len(ended)} processes that an earlier crash left behind")
        roster.show = partial(_prepared, controls, steps)
        plan = await roster.decide()
        roster.adopt(plan, [spec async for spec in roster.build(plan)])
        roster.show = lambda *_: None
        supervisor = Supervisor(list(roster.specs.values()), plan.external, settings, read_free=_free_memory)
        controls.supervisor = supervisor
        controls.swapper = swapper_of(settings, supervisor, plan)
        stopping.hurried.append(supervisor.hurry)
        controls.engines[:] = supervisor.engines
        supervisor.engines = controls.engines
        controls.preparing = ""
        await supervisor.start(resting=roster.resting)
        controls.swapper.launch()
        await begin()
        shown = asyncio.create_task(_show(supervisor.engines, steps))
        try:
            await supervisor.wait_ready()
        finally:
            shown.cancel()
            _show_once(supervisor.engines, steps)


def swapper_of(settings: Settings, supervisor: Supervisor, plan: Plan) -> Swapper:
    """The one owner of who is in memory."""
    return Swapper(
        supervisor,
        plan.capacity,
        min_resident_s=settings.min_resident,
        wait_s=settings.wake_wait,
        queue=settings.wake_queue,
    )


def _prepared(controls: Controls, steps: screen.Steps, step: str, text: str, done: int, total: int) -> None:
    """How far looking for files is; `done` -1: this step has come to its end."""
    if done < 0:
        steps.end(step, text)
        return
    amount = f" {screen.size(done)} of {screen.size(total)}" if total else ""
    steps.update(step, text + amount)
    controls.preparing = f"{step}: {text}{amount}"


async def _show(engines: Iterable[Engine], steps: screen.Steps) -> None:
    while True:
        _show_once(engines, steps)
        await asyncio.sleep(_LOOK_S)


def _show_once(engines: Iterable[Engine], steps: screen.Steps) -> None:
    for engine in engines:
        name = f"engine {engine.name}"
        if engine.wakeable:
            steps.end(name, "starts with the first request for it")
        elif engine.ready:
            steps.end(name, f"ready, pid {engine.pid}" if engine.pid else f"ready at {engine.address.url}")
        elif engine.state in (EngineState.FAILED, EngineState.UNREACHABLE):
            steps.end(name, engine.reason, good=False)
        else:
            steps.update(name, engine.stage or engine.reason or engine.state.value)


def _gpus() -> Sequence[detect.Gpu]:
    return detect.snapshot().gpus


def _free_memory(gpu: str) -> int | None:
    found = [one for one in detect.snapshot().gpus if gpu in (str(one.index), one.uuid)]
    return found[0].free if found else None


class Stopping:
    """SIGINT and SIGTERM: the first asks for an orderly stop, the second hurries it."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self.hurried: list[Callable[[], None]] = []

    @contextlib.asynccontextmanager
    async def listen(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._signal)
        try:
            yield
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)

    def _signal(self) -> None:
        if self._asked.is_set():
            for hurry in self.hurried:
                hurry()
        self._asked.set()

    async def wait(self) -> None:
        await self._asked.wait()

    async def during(self, work: Coroutine[None, None, None]) -> bool:
        """Run `work`; False when a signal came first, and the work was cancelled."""
        task = asyncio.create_task(work)
        asked = asyncio.create_task(self._asked.wait())
        try:
            await asyncio.wait((task, asked), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
                return True
            return False
        finally:
            asked.cancel()
            if not task.done():
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)


def _key(settings: Settings) -> str:
    """The key that the banner shows: the fixed one, a new one for this run, or none when none is asked for."""
    if not settings.auth:
        return ""
    return settings.api_key or mint("start-up", admin=True)[0]


def _banner(
    console: Console, settings: Settings, port: int, key: str, engines: list[Engine], state: tuple[bool, str]
) -> None:
    host = settings.host if settings.host not in ("0.0.0.0", "::") else "127.0.0.1"
    base = f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
    there = [engine for engine in engines if engine.served_names and (engine.ready or engine.wakeable)]
    models = list(dict.fromkeys(engine.served_names[0] for engine in there))

    def print_line(text: str) -> None:
        console.print(text, soft_wrap=True, highlight=False, markup=False)

    good, reason = state
    print_line("\nAiCockpit is ready." if good else f"\nAiCockpit runs, and answers no request yet: {reason}.")
    print_line(f"  URL    {base}")
    if not key:
        print_line("  Key    none is asked for (AICOCKPIT_AUTH=off)")
    elif settings.api_key:
        print_line("  Key    the one in AICOCKPIT_API_KEY")
    else:
        print_line(f"  Key    {key}")
        print_line(
            "         shown once, valid until this server stops; `aicockpit keys create NAME` makes one that stays"
        )
    for model in models:
        print_line(f"  Model  {model}")
    print_line(f"  State  {settings.state_dir}")
    if models:
        print_line("\nTry it:\n\n  " + curl_line(base, key, models[0], bool(settings.api_key)) + "\n")
    elif not engines:
        print_line(f"\n{_NO_MODEL}\n")
    print_line("Ctrl-C stops everything.")


def curl_line(base: str, key: str, model: str, from_env: bool) -> str:
    """One command that works as pasted. A fixed key is a secret of the user's: it is not printed."""
    question = [{"role": "user", "content": "What is the capital of France?"}]
    body = json.dumps({"model": model, "messages": question, "temperature": 0})
    words = ["curl", f"{base}/chat/completions", "-H", "Content-Type: application/json"]
    line = shlex.join(words)
    if key:
        line += (
            ' -H "Authorization: Bearer $AICOCKPIT_API_KEY"'
            if from_env
            else f" -H {shlex.quote(f'Authorization: Bearer {key}')}"
        )
    return f"{line} -d {shlex.quote(body)}"


def _farewell(inflight: int) -> str:
    if inflight:
        return f"Stopping: {inflight} requests in work may finish first (Ctrl-C again: at once)."
    return "Stopping."
