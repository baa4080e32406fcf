"""The shape of a test source (sources.py), and statements that may stand in bodies of most languages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Sample:
    """`{body}` in `text` stands in a function's body; `statements` may stand there."""

    path: str
    text: str
    statements: tuple[str, ...]
    keeps: tuple[str, ...]
    defines: tuple[str, ...]
    refers: tuple[str, ...]
    imports: tuple[str, ...]

    def with_body(self, body: str) -> str:
        return self.text.replace("{body}", body)


C_STATEMENTS = ("helper(1);", "int n = 0;", "for (;;) { break; }", "if (a) { other(a); }", "/* note */", "// note\n")
JS_STATEMENTS = ("helper(1);", "let n = 0;", "const f = () => { g(); };", "if (a) { other(a); }", "// note\n")
