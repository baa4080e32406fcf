"""The table of settings: order of sources, errors that name the setting, nothing secret in a repr."""

from __future__ import annotations

from pathlib import Path

import pytest

from aicockpit.errors import SettingError
from aicockpit.settings import SETTINGS, Settings, load


def build(env_file: Path | None = None, /, **environ: str) -> Settings:
    return load(env_file, environ)


def test_defaults_are_safe() -> None:
    made = build()
    assert (made.host, made.port, made.auth, made.loopback) == ("127.0.0.1", 8000, True, True)
    assert made.max_body == 64 << 20
    assert made.first_byte_wait is None


def test_the_command_line_wins_over_the_environment_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "env"
    file.write_text("MODEL_NAME=file\nGPU_COUNT=2\nAICOCKPIT_PORT=1\nPREC='int4' # comment\n")
    made = load(file, {"MODEL_NAME": "environment", "AICOCKPIT_PORT": "2"}, {"AICOCKPIT_PORT": "3"})
    assert (made.model_name, made.gpu_count, made.port, made.prec) == ("environment", 2, 3, "int4")


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"AICOCKPIT_PORT": "x"}, ["AICOCKPIT_PORT", "'x'"]),
        ({"AICOCKPIT_PORT": "70000"}, ["0 to 65535"]),
        ({"AICOCKPIT_PROT": "1"}, ["AICOCKPIT_PROT", "Did you mean AICOCKPIT_PORT?"]),
        ({"AICOCKPIT_MODEL": "1"}, ["AICOCKPIT_MODEL (in the environment)", "Did you mean MODEL_NAME?"]),
        ({"AICOCKPIT_GPU": "1"}, ["Did you mean GPU_COUNT?"]),
        ({"AICOCKPIT_FROBNICATE": "1"}, ["is not a setting. The README's section Settings lists them all."]),
        ({"AICOCKPIT_MAX_BODY": "big"}, ["64MiB"]),
        ({"AICOCKPIT_AUTH": "maybe"}, ["on or off"]),
        ({"AICOCKPIT_AUTH": "off", "AICOCKPIT_HOST": "0.0.0.0"}, ["AICOCKPIT_AUTH=off", "127.0.0.1"]),
        ({"AICOCKPIT_ENGINE_URLS": "ftp://x"}, ["http://host:port"]),
        ({"AICOCKPIT_ALIASES": "a=b,c"}, ["alias=model"]),
        ({"GPU_COUNT": "3", "AICOCKPIT_REPLICAS": "2"}, ["cannot be divided"]),
        ({"GPU_COUNT": "-1"}, ["negative"]),
        ({"AICOCKPIT_TOKEN_WAIT": "nan"}, ["seconds"]),
    ],
)
def test_errors_name_the_setting_and_what_is_right(environ: dict[str, str], words: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        load(None, environ)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("text", "count"), [("1048576", 1 << 20), ("64MiB", 64 << 20), ("10M", 10**7), ("5kb", 5000)])
def test_sizes(text: str, count: int) -> None:
    assert build(**{"AICOCKPIT_MAX_BODY": text}).max_body == count


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_auth_off_is_accepted_on_loopback(host: str) -> None:
    assert build(AICOCKPIT_AUTH="off", AICOCKPIT_HOST=host).auth is False


def test_secrets_stay_out_of_repr_and_errors() -> None:
    made = build(AICOCKPIT_API_KEY="sesame", HF_TOKEN="hf_secret", AICOCKPIT_ENGINE_URLS="https://:pass@host/v1")
    assert "sesame" not in repr(made)
    assert "hf_secret" not in repr(made)
    assert "pass" not in repr(made)
    assert made.engine_urls[0].url == "https://host:443"
    assert made.engine_urls[0].key == "pass"


def test_a_missing_env_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="does not exist"):
        load(tmp_path / "nope", {})


def test_a_long_state_folder_gets_a_short_socket_folder(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 90)
    assert len(str(build(AICOCKPIT_STATE_DIR=str(long)).run_dir)) < 70
    assert build(AICOCKPIT_STATE_DIR="/tmp/s").run_dir == Path("/tmp/s/run")


def test_every_setting_has_a_line_of_help() -> None:
    assert all(setting.help.endswith(".") for setting in SETTINGS)
    assert len({setting.attr for setting in SETTINGS}) == len(SETTINGS)
