"""The gateways that are measured: how each is installed, started, and asked for its version."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.model import API_KEY, MODEL, chat_body
from benchmarks.proc import ROOT, NotStarted, Running, free_port, plain_environment, start, wait_until_200

BENCH = ROOT / ".bench"
START_LIMIT = 120.0
INSTALL_LIMIT = 900.0

# LiteLLM 1.82.7, 1.82.8 and 1.107.0 were published by an attacker. 1.82.6 is the release that the advisories
# of the first incident name as clean: move this pin only to a release that has been looked at.
PACKAGES = {
    "vllm-router": "vllm-router==0.1.17",
    "sglang-router": "sglang-router==0.3.2",
    "litellm": "litellm[proxy]==1.82.6",
}


class NotInstalled(Exception):
    """A peer cannot be installed here; the text says why."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a gateway runs: its own port, the stub's, its core and a folder for its files."""

    port: int
    upstream: int
    core: int
    folder: Path

    @property
    def upstream_url(self) -> str:
        return f"http://127.0.0.1:{self.upstream}"


@dataclass(frozen=True, slots=True)
class Peer:
    """One gateway. `launch` returns its command and what its environment has more than the plain one."""

    name: str
    install: Callable[[], None]
    version: Callable[[], str]
    launch: Callable[[Place], tuple[list[str], dict[str, str]]]
    ready_path: str = ""

    def start(self, place: Place) -> Running:
        """Start it and wait until it answers. Raises NotStarted, and then leaves nothing behind."""
        command, more = self.launch(place)
        environment = plain_environment(place.folder) | more
        running = start(command, place.core, place.folder / f"{self.name}.log", environment)
        path = self.ready_path or "/v1/chat/completions"
        body = None if self.ready_path else chat_body("json", "2 kB")
        try:
            wait_until_200(running, place.port, path, START_LIMIT, body)
        except BaseException:
            running.stop()
            raise
        return running


def _run(command: list[str], why: str, environment: dict[str, str] | None = None) -> str:
    """Run to the end and return the output; raises NotInstalled with its last line."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_LIMIT, env=environment, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{why}: {error}") from error
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise NotInstalled(f"{why}: {' '.join(last)[:200]}")
    return done.stdout + done.stderr


# --- nginx


def _install_nginx() -> None:
    if shutil.which("nginx"):
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise NotInstalled("nginx is absent; installing it takes Debian's apt-get and root")
    quiet = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    _run(["apt-get", "update", "-q"], "apt-get update failed", quiet)
    install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "nginx-light"]
    _run(install, "apt-get install nginx-light failed", quiet)


def _nginx_version() -> str:
    return _run(["nginx", "-v"], "nginx -v failed").strip().rpartition("/")[2]


def nginx_config(place: Place) -> str:
    """One worker, keep-alive to the upstream, nothing buffered, no log."""
    temporary = "\n".join(
        f"  {name}_temp_path {place.folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""daemon off;
worker_processes 1;
pid {place.folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
{temporary}
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 64m;
  client_body_buffer_size 1m;
  upstream stub {{ server 127.0.0.1:{place.upstream}; keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{place.port} backlog=1024;
    location / {{
      proxy_pass http://stub;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 600s;
    }}
  }}
}}
"""


def _launch_nginx(place: Place) -> tuple[list[str], dict[str, str]]:
    config = place.folder / "nginx.conf"
    config.write_text(nginx_config(place))
    return ["nginx", "-e", "stderr", "-p", str(place.folder), "-c", str(config)], {}


# --- peers from PyPI, each in an environment of its own


def _install_package(name: str) -> None:
    home = BENCH / name
    requirement = PACKAGES[name]
    done = home / "installed"
    if done.is_file() and done.read_text() == requirement:
        return
    _run([sys.executable, "-m", "venv", "--clear", str(home)], f"no environment for {name}")
    python = str(home / "bin" / "python")
    uv = shutil.which("uv")
    pip = [uv, "pip", "install", "-p", python] if uv else [python, "-m", "pip", "install"]
    _run([*pip, "-q", "--only-binary", ":all:", requirement], f"{requirement} cannot be installed")
    done.write_text(requirement)


def _package_version(name: str) -> str:
    code = f"import importlib.metadata as m; print(m.version({name!r}))"
    return _run([str(BENCH / name / "bin" / "python"), "-c", code], f"no version of {name}").strip()


def _launch_router(name: str, quiet: str, place: Place) -> tuple[list[str], dict[str, str]]:
    module = name.replace("-", "_") + ".launch_router"
    options = {
        "--host": "127.0.0.1",
        "--port": str(place.port),
        "--worker-urls": place.upstream_url,
        "--policy": "round_robin",
        "--log-level": quiet,
        "--prometheus-host": "127.0.0.1",
        "--prometheus-port": str(free_port()),
        "--worker-startup-check-interval": "1",
    }
    python = str(BENCH / name / "bin" / "python")
    return [python, "-m", module, *(word for pair in options.items() for word in pair)], {}


def _launch_litellm(place: Place) -> tuple[list[str], dict[str, str]]:
    config = place.folder / "litellm.yaml"
    config.write_text(
        "model_list:\n"
        f"  - model_name: {MODEL}\n"
        "    litellm_params:\n"
        f"      model: openai/{MODEL}\n"
        f"      api_base: {place.upstream_url}/v1\n"
        "      api_key: none\n"
        "litellm_settings:\n  telemetry: false\n  num_retries: 0\n"
    )
    log = place.folder / "litellm-log.json"  # no access log: none of the others writes one
    log.write_text('{"version": 1, "disable_existing_loggers": true}')
    command = [str(BENCH / "litellm" / "bin" / "litellm"), "--config", str(config), "--telemetry", "False"]
    listen = ["--host", "127.0.0.1", "--port", str(place.port), "--num_workers", "1", "--log_config", str(log)]
    quiet = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
    return [*command, *listen], quiet


# --- ours


def _our_version() -> str:
    version = _run([sys.executable, "-c", "import aicockpit; print(aicockpit.__version__)"], "no aicockpit").strip()
    try:
        return f"{version} ({_run(['git', '-C', str(ROOT), 'describe', '--always', '--dirty'], 'no git').strip()})"
    except NotInstalled:
        return version


def _launch_ours(place: Place) -> tuple[list[str], dict[str, str]]:
    settings = {
        "AICOCKPIT_ENGINE_URLS": place.upstream_url,
        "AICOCKPIT_PORT": str(place.port),
        "AICOCKPIT_API_KEY": API_KEY,
        "AICOCKPIT_STATE_DIR": str(place.folder / "state"),
    }
    return [sys.executable, "-c", "from aicockpit.cli import main; main()", "serve"], settings


def _nothing() -> None:
    return None


def _package_peer(name: str, launch: Callable[[Place], tuple[list[str], dict[str, str]]]) -> Peer:
    return Peer(name, lambda: _install_package(name), lambda: _package_version(name), launch)


PEERS: tuple[Peer, ...] = (
    Peer("nginx", _install_nginx, _nginx_version, _launch_nginx),
    _package_peer("vllm-router", lambda place: _launch_router("vllm-router", "warning", place)),
    _package_peer("sglang-router", lambda place: _launch_router("sglang-router", "warn", place)),
    _package_peer("litellm", _launch_litellm),
    Peer("ours", _nothing, _our_version, _launch_ours, ready_path="/ready"),
)

__all__ = ["PEERS", "NotInstalled", "NotStarted", "Peer", "Place"]
