"""`aicockpit recipes list|show|explain|validate|import`: how models are run, and why so on this machine."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from aicockpit.commands import Commands, Run, actions_of, judging
from aicockpit.errors import SettingError
from aicockpit.recipes import aim, explain, load
from aicockpit.recipes.load import Loaded
from aicockpit.recipes.schema import PRECISIONS, ROLES
from aicockpit.recipes.search import Refused
from aicockpit.recipes.select import Chosen, select
from aicockpit.settings import Settings


def add(commands: Commands) -> None:
    """Register the command and its actions; without an action it lists."""
    parser = commands("recipes", _list, "list, show and check recipes, and explain which one a model gets on a machine")
    plain = actions_of(parser)

    def action(name: str, run: Run, text: str) -> argparse.ArgumentParser:
        made = plain(name, run, text)
        made.add_argument("--json", action="store_true", help="print JSON")
        return made

    parser.set_defaults(json=False, role="")
    made = action("list", _list, "what there is: roles, precisions, window")
    made.add_argument("--role", choices=ROLES, default="", help="only these")
    made = action("show", _show, "one recipe: its checkpoints, features, window, licence")
    made.add_argument("recipe", metavar="ID", help="a recipe's id, or the Hub id of a checkpoint")
    made.add_argument("--yaml", action="store_true", help="print the file itself")
    _explain_options(action("explain", _explain, "which way a model is run on a machine, why, and why not the others"))
    made = action("validate", _validate, "check recipe files; exit code 2 when one is wrong")
    made.add_argument("files", nargs="+", type=Path, metavar="FILE")
    made = action("import", _import, "make a recipe of an AMD AIM profile; what cannot be kept is told on stderr")
    made.add_argument("file", type=Path, metavar="FILE")
    made.add_argument("--save", action="store_true", help="into AICOCKPIT_RECIPES instead of standard output")


def _explain_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("wanted", metavar="MODEL", help="a recipe's id, a Hub id (owner/name[@revision]) or a folder")
    parser.add_argument("--gpu", default="", help='"A6000", "H100:8", "L4:4" or "cpu"; default: the machine here')
    parser.add_argument("--gpus", type=_count, help="how many of them; default: as few as do. 0: the CPU")
    parser.add_argument("--precision", default="", choices=PRECISIONS, help="of the weights; default: whatever is best")
    parser.add_argument("--context", type=_count, help="tokens of the window; default: as the memory allows")
    parser.add_argument("--role", choices=ROLES, default="", help="what it is to do")
    parser.add_argument("--exact", action="store_true", help="no other checkpoint than the one named")
    parser.add_argument("--with", dest="more", action="append", default=[], metavar="FEATURE", help="turn it on")
    parser.add_argument("--without", dest="less", action="append", default=[], metavar="FEATURE", help="turn it off")


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 1 << 40):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 0 or more")
    return int(text)


def _list(loaded: Settings, arguments: argparse.Namespace) -> int:
    library = load.library(loaded.recipes)
    rows = [one for one in library.by_id.values() if not arguments.role or arguments.role in one.recipe.roles]
    if arguments.json:
        judging.emit(json.dumps([_entry(one) for one in rows], indent=2))
        return 0
    out = Console(highlight=False)
    columns = ("id", "parameters", "roles", "", "precisions", "window", "licence")
    shown = len(columns) if out.width >= 100 else len(columns) - 1
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns[:shown]:
        table.add_column(name, no_wrap=name in ("id", "window", ""), justify="right" if name == "window" else "left")
    for one in rows:
        table.add_row(*(Text(cell) for cell in explain.row(one)[:shown]))
    out.print(table)
    hint = "FIM: fills in the middle. `aicockpit recipes explain ID --gpu A6000` shows how one is run, and why."
    out.print(Text(f"\n{hint}", "dim"))
    return 0


def _entry(one: Loaded) -> dict[str, object]:
    recipe = one.recipe
    return {
        "id": recipe.id,
        "model": recipe.model.model_id,
        "roles": list(recipe.roles),
        "shipped": one.shipped,
        "path": None if one.shipped else str(one.path),
        "window": recipe.model.context_length,
        "fim": recipe.aicockpit.fim or None,
        "licence": recipe.aicockpit.licence or None,
        "gated": recipe.aicockpit.gated,
        "checkpoints": {
            name: {
                "model": recipe.model_id(name),
                "precision": variant.precision,
                **recipe.checkpoint(name).model_dump(),
            }
            for name, variant in recipe.variants.items()
        },
        "notes": [*recipe.aicockpit.notes, *one.notes],
    }


def _show(loaded: Settings, arguments: argparse.Namespace) -> int:
    one = load.library(loaded.recipes).find(arguments.recipe)
    if arguments.yaml:
        sys.stdout.write(one.path.read_text(encoding="utf-8"))
        return 0
    if arguments.json:
        judging.emit(json.dumps(_entry(one), indent=2))
        return 0
    out = Console(highlight=False)
    out.print(Text(one.recipe.id, "bold"))
    _pairs(out, list(explain.facts(one)))
    out.print()
    for name, model, precision, size, how, told in explain.checkpoints(one.recipe):
        out.print(Text.assemble((name, "bold"), f"  {model}  {precision}  {size}"), soft_wrap=True)
        out.print(Padding(Text(f"{told} (weights: {how})", "dim"), (0, 0, 0, 2)))
    return 0


def _pairs(out: Console, pairs: Sequence[tuple[str, str]]) -> None:
    grid = Table.grid(Column(no_wrap=True, style="dim"), Column(overflow="fold"), padding=(0, 2, 0, 0))
    for what, text in pairs:
        grid.add_row(what, Text(text))
    out.print(grid)


def _explain(loaded: Settings, arguments: argparse.Namespace) -> int:
    library = load.library(loaded.recipes)
    here = judging.machine(loaded, arguments.gpu)
    wish = judging.wish(loaded, library, arguments.wanted, here, gpus=arguments.gpus)
    wish = replace(
        wish,
        precision=arguments.precision,
        max_model_len=arguments.context or wish.max_model_len,
        role=arguments.role,
        exact=arguments.exact,
        features=tuple(arguments.more),
        without=tuple(arguments.less),
    )
    shapes = judging.Shapes(loaded, library, wish.model)
    outcome = select(wish, library.recipes, here.devices, shapes)
    for error in shapes.failed.values():
        print(f"aicockpit: {error}", file=sys.stderr)
    if isinstance(outcome, Chosen):
        outcome = judging.with_tier(loaded, library, outcome, shapes, arguments.role)
    if arguments.json:
        judging.emit(json.dumps(explain.document(outcome), indent=2))
    else:
        show(outcome, _called(arguments.gpu, here), Console(highlight=False))
    return 0 if isinstance(outcome, Chosen) else 1


def _called(text: str, here: judging.Machine) -> str:
    if here.given:
        called = text if here.devices else "the CPU"
    else:
        called = "this machine" if here.devices else "this machine, which has no GPU (name one with --gpu)"
    return called if here.devices or not here.share else f"{called}; {here.share}"


def show(outcome: Chosen | Refused, where: str, out: Console) -> None:
    """Print a choice or a refusal, 60 columns or more."""
    if isinstance(outcome, Chosen):
        name = f"{outcome.recipe}, variant {outcome.variant}" if outcome.recipe else "no recipe"
        out.print(Text.assemble(("✓ ", "bold green"), (name, "bold"), f" on {where}"))
        out.print()
        for line in explain.serve_line(outcome):
            out.print(Text(f"  {line}", "cyan"), soft_wrap=True)  # no padding: a backslash must end its line
        out.print()
        if outcome.devices:
            _items(out, [explain.memory(outcome.verdict)])
    else:
        out.print(Text.assemble(("✗ ", "bold red"), (f"nothing will do on {where}", "bold")))
        out.print()
    _items(out, outcome.reasons)
    if isinstance(outcome, Refused) and outcome.advice:
        out.print(Text("\nWhat would do:", "bold"))
        _items(out, outcome.advice)
    if outcome.rejected:
        out.print(Text("\nNot taken:", "bold"))
        _rejections(out, outcome)


def _items(out: Console, texts: Sequence[str]) -> None:
    grid = Table.grid(Column(no_wrap=True), Column(overflow="fold"), padding=(0, 1))
    for text in texts:
        grid.add_row("·", Text(text))
    out.print(grid)


def _rejections(out: Console, outcome: Chosen | Refused) -> None:
    rows = explain.collapse(outcome.rejected)
    if out.width >= 100:
        grid = Table.grid(Column(max_width=44), Column(overflow="fold"), padding=(0, 2, 0, 0))
        for one in rows:
            grid.add_row(Text(one.candidate), Text(one.reason, "dim"))
        out.print(grid)
        return
    for one in rows:
        out.print(Text(one.candidate), soft_wrap=True)
        out.print(Padding(Text(one.reason, "dim"), (0, 0, 0, 2)))


def _validate(_: Settings, arguments: argparse.Namespace) -> int:
    results = [(path, *_checked(path)) for path in arguments.files]
    if arguments.json:
        told = [
            {"file": str(path), "id": name, "error": wrong, "notes": list(notes)}
            for path, name, wrong, notes in results
        ]
        judging.emit(json.dumps(told, indent=2))
    else:
        out = Console(highlight=False)
        for path, name, wrong, notes in results:
            if wrong:
                out.print(f"[bold red]✗[/] {escape(wrong)}", soft_wrap=True)
                continue
            out.print(f"[bold green]✓[/] {escape(str(path))}: {escape(name or '')}", soft_wrap=True)
            for note in notes:
                out.print(Text(f"  · {note}", "dim"), soft_wrap=True)
    return 2 if any(wrong for _, _, wrong, _ in results) else 0


def _checked(path: Path) -> tuple[str | None, str | None, tuple[str, ...]]:
    """(id, what is wrong, notes)."""
    try:
        if aim.is_profile(load.tree_of(path.read_text(encoding="utf-8"), path)):
            found = aim.convert(path)
            told = ("an AMD AIM profile; `aicockpit recipes import` makes a recipe of it", *found.told)
            return found.loaded.recipe.id, None, (*told, *found.loaded.notes)
        one = load.read(path)
    except (OSError, UnicodeDecodeError) as error:
        return None, f"{path} cannot be read: {error}", ()
    except SettingError as error:
        return None, str(error), ()
    return one.recipe.id, None, one.notes


def _import(loaded: Settings, arguments: argparse.Namespace) -> int:
    found = aim.convert(arguments.file)
    name = found.loaded.recipe.id
    if arguments.json:
        print(
            json.dumps({"id": name, "recipe": found.text, "told": list(found.told), "notes": list(found.loaded.notes)})
        )
    for sentence in (*found.told, *found.loaded.notes):
        print(f"· {sentence}", file=sys.stderr)
    if arguments.save:
        if loaded.recipes is None:
            raise SettingError("--save needs a folder: set AICOCKPIT_RECIPES.")
        target = loaded.recipes / f"{name}.yaml"
        loaded.recipes.mkdir(parents=True, exist_ok=True)
        if target.exists():
            raise SettingError(f"{target} exists. Move it away first.")
        target.write_text(found.text, encoding="utf-8")
        print(f"wrote {target}{os.linesep}", end="", file=sys.stderr)
    elif not arguments.json:
        sys.stdout.write(found.text)
    return 0
