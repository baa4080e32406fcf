"""The `aicockpit` command: parse, call, print; no logic."""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from aicockpit import __version__, console, log, settings
from aicockpit.commands import actions_of, doctor, fit, fleet, models, recipes
from aicockpit.control import Control
from aicockpit.errors import AicockpitError, SettingError
from aicockpit.gateway.auth import KeyStore
from aicockpit.settings import Settings

_EPILOG = "Settings come from the environment or from --env-file; the README lists them."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code. An expected error is one message on stderr, never a traceback."""
    arguments = _parser().parse_args(argv)
    errors = Console(stderr=True, highlight=False)
    try:
        loaded = settings.load(arguments.env_file, overrides=_overrides(arguments))
        log.set_up(loaded.log_level, loaded.access_log)
        command: Callable[[Settings, argparse.Namespace], int] = arguments.run
        return command(loaded, arguments)
    except AicockpitError as error:
        errors.print(f"aicockpit: {error}", style="red", markup=False, soft_wrap=True)
        return 2 if isinstance(error, SettingError) else 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "aicockpit", description="A code assistant's server on stock vLLM.", epilog=_EPILOG
    )
    parser.add_argument("--version", action="version", version=f"aicockpit {__version__}")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--env-file", type=Path, help="read settings from this file; the environment wins")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[Settings, argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, parents=[common], help=text, description=text)
        made.set_defaults(run=run)
        return made

    start = add("serve", _serve, "start the gateway and its engines in the foreground; Ctrl-C stops everything")
    start.add_argument("--model", help="overrides MODEL_NAME")
    start.add_argument("--host", help="overrides AICOCKPIT_HOST")
    start.add_argument("--port", help="overrides AICOCKPIT_PORT")
    start.add_argument("--workspace", help="overrides AICOCKPIT_WORKSPACE: source tree to index and keep warm")
    index = add("watch", _watch, "index a folder and keep its workspace at a gateway up to date, until Ctrl-C")
    index.add_argument("path", type=Path, help="the source tree")
    index.add_argument("--gateway", default="", help="http://host:port of a server elsewhere; default: the one here")
    index.add_argument("--name", default="", help="of the workspace; default: the folder's")
    index.add_argument("--polling", action="store_true", help="look every few seconds instead of waiting for events")
    index.add_argument("--until-eof", action="store_true", help=argparse.SUPPRESS)
    status = add("status", _status, "show the running server's engines and workspaces")
    status.add_argument("--workspace", dest="shown", metavar="NAME", help="all that is known of this workspace")
    add("health", _health, "say whether a request can be answered now (exit code 0) and if not why (1)")
    add("stop", _stop, "stop the running server and its engines, in order")
    logs = add("logs", _logs, "show the engines' logs")
    logs.add_argument("engine", nargs="?", help="only this engine")
    logs.add_argument("-n", "--lines", type=int, default=50, help="lines of each log (50)")
    logs.add_argument("-f", "--follow", action="store_true", help="go on as lines are written")
    add("reload", _reload, "have the running server read its fleet file again and change what differs")
    for command in (doctor, fit, fleet, recipes, models):
        command.add(add)
    _add_keys(add("keys", _keys_list, "make, list and revoke API keys"))
    bench = add("bench", _bench, "measure the running server: time to first token, tokens per second")
    bench.add_argument("--requests", type=int, default=32, help="requests in all (32)")
    bench.add_argument("--concurrency", type=int, default=4, help="requests at once (4)")
    bench.add_argument("--tokens", type=int, default=32, help="tokens per answer (32)")
    bench.add_argument("--model", help="which model (the first)", dest="bench_model")
    return parser


def _add_keys(parser: argparse.ArgumentParser) -> None:
    action = actions_of(parser)
    create = action("create", _keys_create, "make a key; it is shown once, only its hash is kept")
    create.add_argument("name")
    create.add_argument("--admin", action="store_true", help="may restart and stop engines")
    action("list", _keys_list, "list the keys")
    revoke = action("revoke", _keys_revoke, "make a key invalid at once")
    revoke.add_argument("key", help="its id or name")


def _overrides(arguments: argparse.Namespace) -> dict[str, str]:
    named = {
        "MODEL_NAME": "model",
        "AICOCKPIT_HOST": "host",
        "AICOCKPIT_PORT": "port",
        "AICOCKPIT_WORKSPACE": "workspace",
    }
    return {name: value for name, option in named.items() if (value := getattr(arguments, option, None))}


def _serve(loaded: Settings, _: argparse.Namespace) -> int:
    from aicockpit.serve import serve  # the server's libraries take a second to import; other commands need none

    return uvloop.run(serve(loaded, Console(highlight=False)))


def _watch(loaded: Settings, arguments: argparse.Namespace) -> int:
    from aicockpit.watch import Wish, options_of, watch

    wish = Wish(arguments.path, arguments.gateway, arguments.name, arguments.polling, arguments.until_eof)
    out = Console(highlight=False)
    return asyncio.run(watch(options_of(wish, loaded), out, wish.until_eof))


def _status(loaded: Settings, arguments: argparse.Namespace) -> int:
    control, out = Control(loaded), Console(highlight=False)
    if arguments.shown is not None:
        for line in console.workspace_shown(control.workspaces(), arguments.shown):
            out.print(line, markup=False, soft_wrap=True)
        return 0
    ready, reason = control.ready()
    rows = [
        (
            engine["name"],
            ", ".join(engine["models"]),
            engine["state"],
            console.detail(engine),
            str(engine["pid"] or "-"),
            str(engine["restarts"]),
            str(sum(engine["in_flight"].values())),
        )
        for engine in control.engines()
    ]
    out.print(console.table("", ("engine", "models", "state", "detail", "pid", "restarts", "in work"), rows))
    if spaces := control.workspaces():
        columns = ("workspace", "files", "model", "for", "state", "pack", "journal", "resident", "last save warm after")
        out.print(console.table("", columns, [row for space in spaces for row in console.context_rows(space)]))
    out.print("ready" if ready else f"not ready: {reason}")
    return 0 if ready else 1


def _health(loaded: Settings, _: argparse.Namespace) -> int:
    ready, reason = Control(loaded).ready()
    print("ready" if ready else f"not ready: {reason}")
    return 0 if ready else 1


def _stop(loaded: Settings, _: argparse.Namespace) -> int:
    began = time.monotonic()
    if Control(loaded).stop_server(loaded.stop_wait + 30):
        print(f"stopped after {time.monotonic() - began:.1f} s; no process is left")
    else:
        print("no server runs")
    return 0


def _logs(loaded: Settings, arguments: argparse.Namespace) -> int:
    from aicockpit.logview import show

    return show(loaded.state_dir / "logs", arguments.engine, arguments.lines, arguments.follow)


def _reload(loaded: Settings, _: argparse.Namespace) -> int:
    changes = Control(loaded).reload()
    for what, names in changes.items():
        if names:
            print(f"{what}: {', '.join(names)}")
    return 0


def _keys_create(loaded: Settings, arguments: argparse.Namespace) -> int:
    print(KeyStore(loaded.state_dir).create(arguments.name, arguments.admin))
    print("Shown once: only its hash is kept. A running server accepts it at once.", file=sys.stderr)
    return 0


def _keys_list(loaded: Settings, _: argparse.Namespace) -> int:
    rows = [
        (key.id, key.name, "admin" if key.admin else "", time.strftime("%Y-%m-%d %H:%M", time.localtime(key.created)))
        for key in KeyStore(loaded.state_dir).load().values()
    ]
    Console(highlight=False).print(console.table("", ("id", "name", "rights", "made"), rows))
    return 0


def _keys_revoke(loaded: Settings, arguments: argparse.Namespace) -> int:
    gone = KeyStore(loaded.state_dir).revoke(arguments.key)
    if not gone:
        raise AicockpitError(f"no key has the id or name {arguments.key!r}. `aicockpit keys list` shows them.")
    print("revoked: " + ", ".join(f"{key.id} ({key.name})" for key in gone))
    return 0


def _bench(loaded: Settings, arguments: argparse.Namespace) -> int:
    from aicockpit.bench import Plan, measure, rows

    plan = Plan(arguments.requests, arguments.concurrency, arguments.tokens, arguments.bench_model)
    result = asyncio.run(measure(Control(loaded), plan))
    Console(highlight=False).print(console.table(result.title, ("figure", "p50", "p99"), rows(result)))
    return 0 if not result.failed else 1


if __name__ == "__main__":
    sys.exit(main())
