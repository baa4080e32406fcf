"""Holds the import arrows of the architecture: a package imports only what stands below its own line."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "aicockpit"
# From the top. Modules of one line do not import each other, but for the command line's own.
LINES = [
    {
        "__main__",
        "cli",
        "serve",
        "warm",
        "watch",
        "console",
        "control",
        "doctor",
        "bench",
        "logview",
        "commands",
        "sizing",
        "roster",
        "adapters",
        "controls",
    },
    {"gateway", "indexer"},
    {"workspace", "documents"},
    {"engines", "prompts", "models"},
    {"recipes"},
    {"hardware"},
    {"settings", "log"},
    {"values"},
    {"errors", "types", "kvdisk"},
]
FILES = sorted(SOURCE.rglob("*.py"))


def line_of(package: str) -> int:
    return next(number for number, line in enumerate(LINES) if package in line)


def imported(path: Path) -> set[str]:
    """Top-level packages of ours that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "aicockpit":
            found |= {alias.name for alias in node.names if alias.name != "__version__"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aicockpit."):
            found.add((node.module or "").split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("aicockpit.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path: Path) -> None:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    own = parts[0]
    if own == "__init__":
        assert imported(path) == set()
        return
    for package in imported(path) - {own}:
        below = line_of(package) > line_of(own)
        command_line = line_of(own) == 0 == line_of(package)
        types_of_errors = {own, package} == {"errors", "types"}
        assert below or command_line or types_of_errors, f"{path.name} imports {package}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_files_are_short_and_have_no_globals(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "every module says what lives in it"
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]


def test_broad_excepts_stand_only_at_the_named_edges() -> None:
    broad = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ExceptHandler) and (
                node.type is None or (isinstance(node.type, ast.Name) and node.type.id == "Exception")
            ):
                broad.append(str(path.relative_to(SOURCE)))
    assert set(broad) <= {"gateway/app.py", "engines/process.py"}
