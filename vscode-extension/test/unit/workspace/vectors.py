"""What the server's indexer says, for the extension's own pusher to say the same.

Run again when its rules change: .venv/bin/python vscode-extension/test/unit/workspace/vectors.py
"""

from __future__ import annotations

import json
import random
from pathlib import Path

import xxhash

from aicockpit.indexer.ignore import block
from aicockpit.indexer.secrets import holds_key
from aicockpit.indexer.wildmatch import parse

PATTERNS = r"""
*.log|foo|foo/|/foo|foo/bar|/foo/*|**/foo|foo/**|foo/**/bar|a/**/b|**|*|?|[ab]c|[!ab]c|[a-c]x|[]a]|[[:alpha:]]1
[[:digit:]]|[[:nope:]]|[a|\#x|#x|\!x|!x|!*.log|foo\ |foo |foo\|**foo|foo**|foo**/bar|**/foo/bar|/**/x|x/**|[^a-c]z
a\*b|a\?b|FOO|[A-Z]q|é|é*|[[:upper:]]y|*/foo|foo/*/bar|.*|*.t?t|a[/]b|[\]]|[a\-c]d|[[:space:]]|docs/*.md|build*/
""".replace("\n", "|")
PATHS = """
foo|bar|foo/bar|a/foo|a/b|a/x/b|a/x/y/b|x.log|d/x.log|foo/x/bar|FOO|Foo|foox/y/bar|ac|bc|cc|ax|dx|]
a|a1|1|#x|!x|foo |a*b|aXb|a?b|Aq|aq|Ay|ay|é|éx|.env|.a/b|x.txt|docs/a.md|docs/x/a.md|build|build1/x
x/foo|x/y/foo|a-c|-d|bz|dz| |x|x/y|foobar|a/foo/bar|y/x
""".replace("\n", "|")
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIB\n"
CONTENTS = [
    ("a.txt", KEY),
    ("a.py", KEY),
    ("a.py", "x = '''" + KEY + "'''\n"),
    ("notes.md", "text\n" + KEY),
    ("a.TS", "const key = `" + KEY + "`;"),
    ("a.txt", "\ufeff  \n\t" + KEY),
    ("a.txt", "\u00a0" + "PuTTY-User-Key-File-3: x"),
    ("a.txt", "PuTTY-User-Key-File-3: x"),
    ("a.txt", "openssh-key-v1\0"),
    ("a.txt", "openssh-key-v1 "),
    ("a.json", '{"type" : "service_account"}'),
    ("a.json", '{"type":"service_accounts"}'),
    ("a.yaml", "client-key-data: abc"),
    ("a.txt", "AGE-SECRET-KEY-1QQ"),
    ("a.txt", "-----BEGIN PUBLIC KEY-----"),
    ("a.txt", "-----BEGIN private KEY PRIVATE KEY"),
    ("a.txt", "PRIVATE KEY"),
    ("a.txt", ""),
    ("a\nb.py", "text " + KEY),
]


def decisions() -> list[list[object]]:
    found: list[list[object]] = []
    for pattern in dict.fromkeys(one for one in PATTERNS.split("|") if one):
        for ignore_case in (False, True):
            made = block(pattern.encode(), ignore_case=ignore_case)
            parsed = parse(pattern.encode(), ignore_case=ignore_case)
            matches: list[str] = []
            for path in dict.fromkeys(one for one in PATHS.split("|") if one):
                for folder in (False, True):
                    raw = path.encode()
                    verdict = made.decide(raw, raw.rpartition(b"/")[2], folder) if made else None
                    if verdict is not None:
                        matches.append(path + ("/" if folder else ""))
            found.append([pattern, ignore_case, parsed is not None, matches])
    return found


def hashes() -> list[list[object]]:
    chance = random.Random(7)
    sizes = [0, 1, 3, 8, 16, 17, 64, 128, 129, 240, 241, 512, 1024, 1025, 4096, 65_536, 1_000_003]
    seeds = [(chance.randrange(256), chance.randrange(1, 256), size) for size in sizes]
    return [
        [start, step, size, xxhash.xxh3_128(bytes((start + step * place) % 256 for place in range(size))).hexdigest()]
        for start, step, size in seeds
    ]


if __name__ == "__main__":
    judged = [[name, text, holds_key(name.encode(), text.encode())] for name, text in CONTENTS]
    found = {"hashes": hashes(), "decisions": decisions(), "secrets": judged}
    Path(__file__).with_name("vectors.json").write_text(json.dumps(found, ensure_ascii=False, indent=0) + "\n")
