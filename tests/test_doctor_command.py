"""commands/doctor.py as it is run: the table, the paragraphs of a narrow terminal, the JSON and its schema."""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.console import Console

from aicockpit import doctor
from aicockpit.commands import doctor as command
from aicockpit.doctor import Finding, Report
from aicockpit.doctor.schema import schema
from aicockpit.hardware.machine import Snapshot
from aicockpit.settings import Settings
from nvml_rig import A6000, H100, HEAD, Rig, eight, four, gpu

ROOT = Path(__file__).parent.parent
SCHEMA = ROOT / "docs/doctor.schema.json"
RUN = """
import argparse, sys
from aicockpit import settings
from aicockpit.commands import doctor
parser = argparse.ArgumentParser()
commands = parser.add_subparsers(required=True)
def add(name, run, text):
    made = commands.add_parser(name, help=text)
    made.set_defaults(run=run)
    return made
doctor.add(add)
arguments = parser.parse_args()
sys.exit(arguments.run(settings.load(), arguments))
"""


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def run(rig: Rig, lines: Sequence[str], *argv: str, **env: str) -> subprocess.CompletedProcess[str]:
    known = {"AICOCKPIT_STATE_DIR": str(rig.folder / "state"), "AICOCKPIT_PORT": "0", "HF_HOME": str(rig.folder)}
    done = rig.run(lines, "-c", RUN, "doctor", *argv, **known, **env)
    assert "Traceback" not in done.stderr, done.stderr
    return done


def as_json(rig: Rig, lines: Sequence[str], **env: str) -> tuple[dict[str, Any], int]:
    done = run(rig, lines, "--json", **env)
    return json.loads(done.stdout), done.returncode


def of(document: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {finding["id"]: finding for finding in document["findings"]}


def test_eight_sound_gpus(rig: Rig) -> None:
    document, _ = as_json(rig, eight())
    rows = of(document)
    assert [row for row in rows if re.fullmatch(r"gpu\.\d", row)] == [f"gpu.{index}" for index in range(8)]
    assert {name for name, row in rows.items() if row["mark"] != "ok"} <= {"torch"}  # of the build in this environment
    assert rows["gpu.links"]["found"] == "every pair by NVLink (18 links)"
    assert document["snapshot"]["gpus"][0]["detail"]["links"]["active"] == 18


def test_a_machine_full_of_faults(rig: Rig) -> None:
    broken = gpu("NVIDIA H100", H100, "process 77 30000", fabric=1, used=30000, free=51559, links="16 2", persistence=0)
    lines = (*HEAD, *broken, *gpu("NVIDIA H100", H100, mig=1), *gpu("Tesla V100", A6000, capability="7 0"))
    document, code = as_json(rig, lines, MODEL_NAME="a/b", GPU_COUNT="4", HF_TOKEN="x y")
    marks = {name: row["mark"] for name, row in of(document).items()}
    expected = {"fabric": "bad", "mig": "bad", "capability": "bad", "count": "bad", "memory": "warn", "nvlink": "warn"}
    assert {name: marks[f"gpu.{name}"] for name in expected} == expected
    assert (marks["hf-token"], marks["gpu.mixed"], document["verdict"], code) == ("warn", "warn", "bad", 1)


def test_a_model_that_a_start_would_refuse_is_bad_and_one_that_fits_says_where(rig: Rig) -> None:
    large = {"MODEL_NAME": "Qwen/Qwen3-Coder-480B-A35B-Instruct-FP8", "GPU_COUNT": "4"}
    env = {"AICOCKPIT_VLLM_COMMAND": "vllm serve", **large}
    document, code = as_json(rig, four(), **env)
    row = of(document)["model"]
    assert (row["mark"], code, row["what"]) == ("bad", 1, f"model {large['MODEL_NAME']}")
    assert "does not fit 4 x NVIDIA RTX A6000" in row["found"]
    document, _ = as_json(rig, four(), AICOCKPIT_FIT="off", **env)
    assert of(document)["model"]["mark"] == "warn"
    coder = "Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4"
    row = of(as_json(rig, four(), **{**env, "MODEL_NAME": coder, "GPU_COUNT": "1"})[0])["model"]
    assert row["mark"] == "ok"
    assert "GiB usable" in row["found"]


def test_bridges_that_the_driver_tells_decide_which_gpus_an_engine_gets(rig: Rig) -> None:
    """Four cards, bridged 0-2 and 1-3."""
    cards = (line for to in (2, 3, 0, 1) for line in gpu("NVIDIA RTX A6000", A6000, links="4 0", to=f"{to} 4"))
    crossed = (*HEAD, "pair 0 2 30 1 1", "pair 1 3 30 1 1", "pair -1 -1 30 0 1", *cards)
    document, _ = as_json(rig, crossed, MODEL_NAME="Qwen/Qwen2.5-Coder-32B-Instruct", GPU_COUNT="2")
    rows = of(document)
    assert "NVLink (4 links): 0-2, 1-3" in rows["gpu.links"]["found"]
    assert "GPU 0, 2; the first that are free, joined by NVLink" in rows["model"]["found"]


def test_models_that_do_not_fit_together_and_one_that_nobody_here_knows(rig: Rig) -> None:
    one = "{name: NAME, model: Qwen/Qwen2.5-Coder-32B-Instruct-GPTQ-Int4, gpus: [0]}"
    (rig.folder / "fleet.yaml").write_text(
        f"models: [{one.replace('NAME', 'a')}, {one.replace('NAME', 'b')}, {{model: nobody/knows-it}}]"
    )
    document, code = as_json(rig, four(), AICOCKPIT_FLEET=str(rig.folder / "fleet.yaml"))
    rows = {row["what"]: row for row in document["findings"] if row["id"] == "model"}
    assert {what: row["mark"] for what, row in rows.items()} == {
        **{"model a": "ok", "model b": "ok", "model nobody/knows-it": "ok", "models together": "bad"}
    }
    assert "a start asks the Hub" in rows["model nobody/knows-it"]["found"]
    assert "GPU 0 (NVIDIA RTX A6000" in rows["models together"]["found"]
    assert code == 1


def test_a_folder_that_is_no_model_and_no_network_at_all(rig: Rig) -> None:
    row = of(as_json(rig, four(), MODEL_NAME=str(rig.folder), GPU_COUNT="1")[0])["model"]
    assert (row["mark"], "config.json" in row["found"]) == ("bad", True)
    row = of(as_json(rig, four(), MODEL_NAME="nobody/knows-it", GPU_COUNT="1", HF_HUB_OFFLINE="1")[0])["model"]
    assert row["mark"] == "bad"


def test_without_a_start_that_needs_them_faults_of_gpus_are_warnings(rig: Rig) -> None:
    document, code = as_json(rig, (*HEAD, *gpu("NVIDIA H100", H100, mig=1)))
    assert (of(document)["gpu.mig"]["mark"], document["verdict"], code) == ("warn", "warn", 0)


def test_a_driver_that_is_not_loaded(rig: Rig) -> None:
    document, code = as_json(rig, ("init 9",), MODEL_NAME="a/b", GPU_COUNT="1")
    assert (of(document)["gpu.driver"]["mark"], code) == ("bad", 1)
    document, code = as_json(rig, ("init 9",))
    assert (of(document)["gpu.driver"]["mark"], code) == ("ok", 0)


def test_a_hanging_call_is_told_and_the_rest_is_there(rig: Rig) -> None:
    program = RUN.replace("arguments.run(", "examine(").replace(
        "import argparse, sys",
        "import argparse, sys, json\nfrom aicockpit import doctor as examiner\n"
        "def examine(loaded, _):\n    print(json.dumps(examiner.report(loaded, 4).to_dict()))\n    return 0",
    )
    env = {"AICOCKPIT_STATE_DIR": str(rig.folder / "state"), "AICOCKPIT_PORT": "0"}
    done = rig.run((*HEAD, *four()[3:], "hang nvmlDeviceGetComputeMode"), "-c", program, "doctor", **env)
    rows = of(json.loads(done.stdout))
    assert rows["unknown"]["what"] == "the details of GPU 3"
    assert rows["gpu.3"]["found"].startswith("NVIDIA RTX A6000")
    assert {"port", "memory", "disk.models"} <= set(rows)


def test_what_is_printed_keeps_to_the_schema(rig: Rig) -> None:
    lines = (*HEAD, *gpu("A100", H100, "instance 4864 4800 part", "process 7 100", mig=1), *gpu("lost", H100, "lost 1"))
    for state in (eight(), lines, ("init 9",)):
        document, _ = as_json(rig, state)
        assert problems(document, schema(), schema()) == []


def problems(value: Any, part: Mapping[str, Any], whole: Mapping[str, Any], at: str = "") -> list[str]:
    """The part of JSON Schema that ours uses. Unlike JSON Schema, a field that it does not name is a problem."""
    if "$ref" in part:
        part = whole["$defs"][part["$ref"].rpartition("/")[2]]
    if "anyOf" in part:
        found = [problems(value, one, whole, at) for one in part["anyOf"]]
        return [] if [] in found else [f"{at}: {value!r} fits none of {part['anyOf']}"]
    if "const" in part or "enum" in part:
        return [] if value in part.get("enum", [part.get("const")]) else [f"{at}: {value!r}"]
    kinds: dict[str, tuple[type, ...]] = {
        **{"object": (dict,), "array": (list,), "string": (str,), "integer": (int,)},
        **{"number": (int, float), "boolean": (bool,), "null": (type(None),)},
    }
    if type(value) not in kinds[part["type"]]:
        return [f"{at}: {value!r} is no {part['type']}"]
    if isinstance(value, dict):
        known = part["properties"]
        told = [f"{at}.{name}: not named" for name in set(value) - set(known)]
        told += [f"{at}.{name}: lacking" for name in set(part["required"]) - set(value)]
        return told + [
            one for name in set(value) & set(known) for one in problems(value[name], known[name], whole, f"{at}.{name}")
        ]
    if isinstance(value, list):
        inner = part.get("prefixItems") or [part["items"]] * len(value)
        return [
            one for index, item in enumerate(value) for one in problems(item, inner[index], whole, f"{at}[{index}]")
        ]
    return []


def test_the_schema_is_the_one_in_the_docs() -> None:
    text = json.dumps(schema(), indent=1) + "\n"
    if os.environ.get("AICOCKPIT_TEST_UPDATE_DOCS"):
        SCHEMA.write_text(text)
    assert SCHEMA.read_text() == text, (
        "a change here is a change of the output: add fields only, or raise VERSION; then run "
        "AICOCKPIT_TEST_UPDATE_DOCS=1 .venv/bin/python -m pytest tests/test_doctor_command.py"
    )


def test_the_snapshot_can_be_read_back(rig: Rig) -> None:
    document, _ = as_json(rig, eight())
    assert document["snapshot"].pop("version") == 1
    again = msgspec.convert(document["snapshot"], Snapshot)
    assert json.loads(json.dumps(again.to_dict())) == {"version": 1, **document["snapshot"]}


def test_every_row_is_in_the_docs() -> None:
    text = (ROOT / "docs/doctor.md").read_text()
    sources = "".join(path.read_text() for path in (ROOT / "src/aicockpit/doctor").glob("*.py"))
    rows = set(re.findall(r'Finding\(\s*"([a-z0-9.-]+)"', sources)) | {"disk.state", "disk.models"}
    rows |= {f"gpu.{name}" for name, *_ in doctor.gpus._CHECKS}
    assert len(rows) > 30
    assert [row for row in sorted(rows) if f"`{row}`" not in text] == []


LONG = Finding("gpu.x", "GPU [bold]", "warn", "word " * 30 + "[red]end", "do " * 20 + "this")
REPORT = Report((Finding("a", "memory", "ok", "fine"), LONG), Snapshot())


def printed(width: int, terminal: bool = False) -> list[str]:
    out = Console(file=io.StringIO(), width=width, force_terminal=terminal, highlight=False, color_system=None)
    command.show(REPORT, out)
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80])
def test_a_narrow_terminal_loses_no_word_and_no_line_is_too_long(width: int) -> None:
    lines = printed(width, terminal=True)
    assert max(len(line) for line in lines) <= width
    words = " ".join(lines).split()
    assert [words.count(word) for word in ("word", "do", "this")] == [30, 20, 1]
    assert "[red]end" in words


def test_a_wide_terminal_gets_a_table() -> None:
    lines = printed(120, terminal=True)
    assert {len(line) for line in lines[:-1]} == {len(lines[0])}
    assert lines[-1] == "1 warn of 2 rows"


def test_a_log_gets_a_line_for_each_row() -> None:
    lines = printed(80)
    assert (lines[0], len(lines)) == ("ok   memory: fine", 3)
    assert lines[1].startswith("warn GPU [bold]: word ")
    assert lines[1].endswith(" do this")


def test_in_a_real_narrow_terminal(rig: Rig) -> None:
    env = rig.environ(eight(), AICOCKPIT_STATE_DIR=str(rig.folder / "state"), AICOCKPIT_PORT="0", TERM="xterm")
    env.pop("COLUMNS", None)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 44, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-c", RUN, "doctor"], env=env, stdin=theirs, stdout=theirs, stderr=theirs
    ) as child:
        os.close(theirs)
        text = b""
        try:
            while data := os.read(ours, 65536):
                text += data
        except OSError:  # Linux ends a terminal so
            pass
        os.close(ours)
    plain = re.sub(rb"\x1b\[[0-9;]*m", b"", text).decode()
    assert child.returncode == 0, plain
    assert max(len(line.rstrip("\r")) for line in plain.split("\n")) <= 44
    assert "GPU 7: NVIDIA H100" in plain


def test_the_exit_code_and_the_last_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for mark, code in (("warn", 0), ("bad", 1)):
        found = Report((Finding("a", "a", mark, "b", "c"),), Snapshot())  # type: ignore[arg-type]
        monkeypatch.setattr(doctor, "report", lambda loaded, found=found: found)
        assert command.run(settings(), argparse.Namespace(json=False)) == code
        assert capsys.readouterr().out.endswith(f"1 {mark} of 1 rows\n")


def settings() -> Settings:
    from aicockpit.settings import load

    return load(environ={})
