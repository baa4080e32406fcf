"""Answers by script for the fake vLLM: what a test wants the model to say, chosen by what the prompt says.

The file is JSON, read at each request: {"tokenizer": PATH or null, "answers": [[REGEX, ANSWER], ...]}. A regex is
searched in the prompt (token ids are decoded by that tokenizer) or in a chat's last message; the first that is
found decides, and `\\1` in its answer is what its group found; of two answers in a list the second is for requests
with a temperature. None found: the usual words.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any


def scripted(path: str, body: dict[str, Any]) -> list[str] | None:
    """The pieces of the answer, a word each, or None where the script says nothing."""
    script = json.loads(Path(path).read_text())
    asked = _asked(body, script.get("tokenizer"))
    for pattern, answer in script["answers"]:
        if found := re.search(pattern, asked, re.DOTALL):
            if isinstance(answer, list):
                answer = answer[bool(body.get("temperature"))]
            return re.findall(r"\s*\S+|\s+$", found.expand(answer)) or [""]
    return None


def _asked(body: dict[str, Any], tokenizer: str | None) -> str:
    if "messages" in body:
        content = body["messages"][-1]["content"]
        return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)
    prompt = body.get("prompt", "")
    if isinstance(prompt, list) and tokenizer and prompt and isinstance(prompt[0], int):
        from tokenizers import Tokenizer  # only scripts of tests with a tokenizer need it

        return str(Tokenizer.from_file(tokenizer).decode(prompt, skip_special_tokens=False))
    return prompt if isinstance(prompt, str) else json.dumps(prompt)
