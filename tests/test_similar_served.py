"""Similar snippets through a whole server with a fake engine: they are in the prompt, cached, and told of."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from test_warm import KEY, Site, site

__all__ = ["site"]  # the fixture

pytestmark = pytest.mark.timeout(180)

HERE = "import os\n\n\ndef run(path: str, count: int) -> int:\n    return "
OTHER = "class Parser:\n    separator = b''\n\n    def feed(self, chunk: bytes) -> None:\n        self.buffer"
BUFFER = f"{OTHER} += chunk\n        self.lines = self.buffer.split(self.separator)\n"


def record(site: Site, prompt: str) -> dict[str, Any]:
    """A completion at a place of an open file, and what the server tells of it later."""
    body = {"model": "fake@tree", "path": "pkg/mod0.py", "prompt": prompt, "max_tokens": 1}
    headers = {"authorization": f"Bearer {KEY}"}
    answer = httpx.post(f"http://127.0.0.1:{site.port}/v1/completions", json=body, headers=headers, trust_env=False)
    assert answer.status_code == 200, answer.text
    found = site.get(f"/api/requests/{answer.headers['x-request-id']}")["context"]
    assert found["cached_tokens"] >= found["predicted_cached"]
    return dict(found)


def snippets(site: Site) -> list[str]:
    return [one["path"] for opened in site.lane()["focus"] for one in opened["snippets"]]


def test_a_completion_gets_snippets_for_its_place_out_of_the_cache(site: Site) -> None:
    (site.tree / "parser.py").write_text(BUFFER)
    site.start(AICOCKPIT_CONTEXT="5000")
    with site.watching():
        site.until_warm()
        site.until(lambda: record(site, HERE)["similar_tokens"] > 100)
        assert any(path.startswith("pkg/mod") and path != "pkg/mod0.py" for path in snippets(site))
        first = record(site, HERE + "count")
        assert first["reason"] == "warm"
        assert first["cached_tokens"] >= first["pack_tokens"] + first["neighbourhood_tokens"] + first["similar_tokens"]

        def moved_on() -> bool:
            told = record(site, OTHER)  # each of them out of the cache, while the next snippets are warmed
            assert told["similar_tokens"] > 0
            return snippets(site) == ["parser.py"] and told["similar_tokens"] != first["similar_tokens"]

        site.until(moved_on)
        assert record(site, OTHER)["reason"] == "warm"
