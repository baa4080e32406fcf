"""JSON load through `wrk` (Debian's package): it costs a third of our own generator's time."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from benchmarks.load import Spec
from benchmarks.model import CHAT_PATH, HEADERS, LoadResult, chat_body

_SCRIPT = """
local file = io.open("{body}", "rb")
wrk.method = "POST"
wrk.body = file:read("*a")
file:close()
{headers}
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\nRESULT {{"requests":%d,"us":%d,"status":%d,"socket":%d,"timeout":%d,"p50":%f,"p99":%f}}\\n',
    summary.requests, summary.duration, e.status, e.connect + e.read + e.write, e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


def available() -> bool:
    return shutil.which("wrk") is not None


def command(spec: Spec, folder: Path) -> list[str]:
    """The command line for `spec`; writes the script and the body into `folder`."""
    body = folder / "body.json"
    body.write_bytes(chat_body(spec.kind, spec.size))
    headers = "\n".join(f'wrk.headers["{name}"] = "{value}"' for name, value in HEADERS.items())
    script = folder / "wrk.lua"
    script.write_text(_SCRIPT.format(body=body, headers=headers))
    url = f"http://127.0.0.1:{spec.port}{CHAT_PATH}"
    length = f"{max(1, round(spec.seconds))}s"
    options = [f"-c{spec.connections}", "-t1", "--timeout", "30s", "-d", length, "-s", str(script)]
    return ["wrk", *options, url]


def result(output: str) -> LoadResult:
    """Read what the script printed; answers with an error status do not count as requests."""
    lines = [line for line in output.splitlines() if line.startswith("RESULT ")]
    if not lines:
        return LoadResult(errors=1, note=f"wrk said: {output.strip()[-200:]}")
    seen = json.loads(lines[-1].removeprefix("RESULT "))
    errors = seen["status"] + seen["socket"] + seen["timeout"]
    parts = [f"{seen[name]} {name} errors" for name in ("status", "socket", "timeout") if seen[name]]
    return LoadResult(
        requests=seen["requests"] - seen["status"],
        errors=errors,
        seconds=seen["us"] / 1e6,
        p50=seen["p50"] / 1000,
        p99=seen["p99"] / 1000,
        note=", ".join(parts),
    )
