"""Parts of pages that the code makes: a test holds page and code together, or renews the page when asked to."""

from __future__ import annotations

import os
from pathlib import Path


def holds(page: Path, made: str, renew: str) -> None:
    """`page` has `made`, whose first and last lines are its markers. `renew`: the arguments of pytest that make it so,
    with AICOCKPIT_TEST_UPDATE_DOCS=1 in the environment."""
    begin, *_, end = made.splitlines()
    before, _, rest = page.read_text().partition(begin)
    shown, _, after = rest.partition(end)
    if os.environ.get("AICOCKPIT_TEST_UPDATE_DOCS"):
        page.write_text(before + made + after)
        return
    assert begin + shown + end == made, f"run: AICOCKPIT_TEST_UPDATE_DOCS=1 .venv/bin/python -m pytest {renew}"
