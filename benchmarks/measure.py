"""One gateway under one scenario: the load runs on its core, the gateway's CPU and memory are read meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks import wrk
from benchmarks.load import Spec, spec_of
from benchmarks.model import LoadResult, Measurement, Scenario
from benchmarks.proc import ROOT, Running, answer, cores, free_port, plain_environment, start, wait_until_200

_SAMPLE_PERIOD = 0.25
_GRACE = 60.0
_SETTLE = 20.0
_QUIET = 0.3


@dataclass(frozen=True, slots=True)
class Bench:
    """The stub that runs, the two cores and the folder for what the run writes."""

    stub: Running
    stub_port: int
    gateway_core: int
    load_core: int
    folder: Path

    def stub_state(self) -> dict[str, int]:
        state: dict[str, int] = json.loads(answer(self.stub_port, "/stub/state")[1])
        return state


@contextmanager
def bench() -> Iterator[Bench]:
    """Start the stub on the load's core; everything is gone afterwards."""
    gateway_core, load_core = cores()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder, port = Path(name), free_port()
        folder.chmod(0o755)  # nginx's worker is another user
        command = [sys.executable, "-m", "benchmarks.stub", str(port)]
        stub = start(command, load_core, folder / "stub.log", plain_environment(folder))
        try:
            wait_until_200(stub, port, "/health", 10)
            yield Bench(stub, port, gateway_core, load_core, folder)
        finally:
            stub.stop()


def settle(running: Running, bench: Bench) -> None:
    """Wait until the gateway has digested the last load: nothing on the stub, and hardly any CPU used."""
    end = time.monotonic() + _SETTLE
    while time.monotonic() < end:
        before = running.cpu()
        time.sleep(_QUIET)
        if running.cpu() - before < 0.1 * _QUIET and not bench.stub_state()["active"]:
            return


def run_load(spec: Spec, bench: Bench, tick: Callable[[], None], period: float = _SAMPLE_PERIOD) -> LoadResult:
    """Run the load generator to its end, calling `tick` every `period` seconds."""
    with_wrk = spec.kind == "json" and not spec.most and wrk.available()
    ours = [sys.executable, "-m", "benchmarks.load"]
    command = wrk.command(spec, bench.folder) if with_wrk else ours
    pinned = ["taskset", "-c", str(bench.load_core), *command]
    pipe, merged = subprocess.PIPE, subprocess.STDOUT
    process = subprocess.Popen(pinned, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=merged, text=True)
    try:
        output = _wait(process, json.dumps(asdict(spec)), spec.seconds + _GRACE, period, tick)
    finally:
        process.kill()
        process.wait()
    if with_wrk:
        return wrk.result(output)
    if process.returncode:
        return LoadResult(errors=1, note=output.strip()[-200:])
    return LoadResult(**json.loads(output.splitlines()[-1]))


def _wait(process: subprocess.Popen[str], text: str, limit: float, period: float, tick: Callable[[], None]) -> str:
    """The output of `process`; "" when it is not done after `limit` seconds."""
    waited, given = 0.0, text
    while waited < limit:
        try:
            return process.communicate(given or None, timeout=period)[0]
        except subprocess.TimeoutExpired:
            given, waited = "", waited + period
            tick()
    return ""


def measure(
    gateway: str, running: Running | None, port: int, scene: Scenario, seconds: float, bench: Bench
) -> Measurement:
    """Put `scene` on the gateway at `port`; `running` is None for the stub itself."""
    peak = 0

    def sample() -> None:
        nonlocal peak
        if running is not None:
            peak = max(peak, running.memory())

    if running is not None:
        settle(running, bench)
    before = running.cpu() if running else 0.0
    load = run_load(spec_of(scene, port, seconds), bench, sample)
    sample()
    used = running.cpu() - before if running else 0.0
    return Measurement(gateway, scene, load, used, peak)
