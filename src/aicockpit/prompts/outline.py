"""The walk over one syntax tree that writes a skeleton's lines and notes the symbols, as a table row tells it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tree_sitter import Node

from aicockpit.prompts.rows import Language

MAX_SKELETON = 24_000  # characters
MAX_SYMBOLS = 5_000
MAX_DEPTH = 40  # of containers and wrappers
MAX_CUTTING = 2_000  # nodes looked at for what to cut out of one declaration
VALUE_CHARS = 160
WIDE_CHARS = 400
HEAD_CHARS = 600
DOC_CHARS = 160

_NAME = re.compile(rb"[^\W\d][\w$]*")
_SYMBOLS = re.compile(rb"\w+[ (]+((?::\w+,?\s*)+)")
_SPACE = re.compile(r"\s+")
_MAY_HIDE = re.compile(rb"//|/\*|#|\{|=>|->|lambda|\||\bdo\b")
_COMMENT_MARK = re.compile(r"^\s*(?:/\*+!?|\*+/?|//+!?|#+!?|=begin)?\s*|\s*\*+/\s*$|</?\w+(?: [^>]*)?/?>")
_PRAGMA = re.compile(r"(?:eslint|noqa|type:|pylint|nolint|prettier|@ts-|clang-format|rubocop|fmt:)", re.IGNORECASE)
_STRING_EDGE = re.compile(r"^[a-zA-Z]*(\"\"\"|'''|\"|')|(\"\"\"|'''|\"|')$")


class Outline:
    """Collects lines, names and spans of one source. One use."""

    def __init__(self, source: bytes, language: Language) -> None:
        self.defines: dict[str, None] = {}
        self.spans: list[tuple[str, int, int]] = []
        self._source = source
        self._language = language
        self._lines: list[str] = []
        self._size = 0

    def text(self) -> str:
        """The skeleton: lines without blank ones, "" when nothing was worth keeping."""
        return "\n".join(self._lines)

    def walk(self, root: Node) -> None:
        """Read the whole tree."""
        if self._language.docstrings:
            self._docstring(root, 0)
        self._members(root, 0, "", 0)

    # -- what stands beside each other

    def _members(self, parent: Node, depth: int, scope: str, level: int, lead: Sequence[Node] = ()) -> None:
        if level > MAX_DEPTH:
            return
        roles = self._language.roles
        before = list(lead)  # the comments and notes right before the next declaration
        row = _last_row(before[-1]) if before else -1  # the last row of what came last
        for node in parent.named_children:
            role = roles.get(node.type)
            if role == "comment" or role == "note":
                start = node.start_point.row
                if start > row + 1:
                    before = [one for one in before if roles.get(one.type) == "note"]
                if start > row:  # else it stands behind something on the same line
                    before.append(node)
                row = _last_row(node)
                continue
            if role is not None or node.is_error:
                if node.start_point.row > row + 1:
                    before = [one for one in before if roles.get(one.type) == "note"]
                self._declare(node, depth, scope, level, before)
            before = []
            row = _last_row(node)

    def _declare(
        self,
        node: Node,
        depth: int,
        scope: str,
        level: int,
        before: list[Node],
        prefix: str = "",
        outer: Node | None = None,
    ) -> None:
        role = self._language.roles.get(node.type, "open")
        span = outer or node
        if role == "function":
            self._before(before, depth)
            self._function(node, depth, scope, prefix, span)
        elif role == "container":
            self._container(node, depth, scope, level, prefix, span, before)
        elif role == "prefix":
            self._prefix(node, depth, scope, level, before, prefix, span)
        elif role == "statement":
            self._statement(node, depth, scope, level, prefix, span)
        elif role == "open":
            if not self._source.startswith(b"if __name__", node.start_byte):  # a script's own main part
                self._members(node, depth, scope, level + 1)
        else:
            limit = {"wide": WIDE_CHARS, "import": HEAD_CHARS}.get(role, VALUE_CHARS)
            if role == "wide":
                self._before(before, depth)
            self._value(node, depth, scope, prefix, limit, self._language.joiner if role != "value" else " ", span)

    def _statement(self, node: Node, depth: int, scope: str, level: int, prefix: str, span: Node) -> None:
        first = node.named_children[0] if node.named_child_count else node
        if self._language.roles.get(first.type) == "container":
            self._declare(first, depth, scope, level + 1, [], prefix, span)
        elif self._language.statement.match(self._source, node.start_byte, node.end_byte):
            self._value(node, depth, scope, prefix, VALUE_CHARS, " ", span)

    def _prefix(
        self, node: Node, depth: int, scope: str, level: int, before: list[Node], prefix: str, span: Node
    ) -> None:
        start = node.start_byte
        if level > MAX_DEPTH:
            return
        found = False
        for child in node.named_children:
            if child.type == "decorator":
                self._before(before, depth)
                before = []
                self._emit(depth, _short(self._slice(child, child.start_byte, child.end_byte), VALUE_CHARS))
                start = child.end_byte
            elif self._language.roles.get(child.type) not in {None, "comment"}:
                words = prefix if found else prefix + self._plain(start, child.start_byte)
                self._declare(child, depth, scope, level + 1, before, words, span if not found else None)
                found, before, start = True, [], child.end_byte
        if not found:
            self._value(node, depth, scope, prefix, WIDE_CHARS, " ", span)

    # -- one declaration

    def _function(self, node: Node, depth: int, scope: str, prefix: str, span: Node) -> None:
        body = self._stop(node)
        end = node.end_byte if body is None else body.start_byte
        text = _short(self._slice(node, node.start_byte, end), HEAD_CHARS).rstrip("; ")
        if self._language.closer == "end":
            text = text.rstrip("=; ")
        self._symbol(node, scope, span)
        doc = self._language.docstrings and body is not None and self._doc_of(body)
        self._emit(depth, prefix + text + ("" if doc else self._language.stub))
        if doc:
            self._emit(depth + 1, doc)

    def _container(
        self, node: Node, depth: int, scope: str, level: int, prefix: str, span: Node, before: list[Node]
    ) -> None:
        body = self._body(node)
        self._before(before, depth)
        if body is None:
            self._value(node, depth, scope, prefix, VALUE_CHARS, " ", span)
            return
        brace = next((child for child in body.children if child.type == "{"), body)
        text = _short(self._slice(node, node.start_byte, brace.start_byte), HEAD_CHARS)
        scope = self._symbol(node, scope, span)
        language = self._language
        self._emit(depth, prefix + text + language.opener)
        mark = len(self._lines)
        if language.docstrings:
            self._docstring(body, depth + 1)
        lead = [child for child in node.named_children if language.roles.get(child.type) == "comment"]
        self._members(body, depth + 1, scope, level + 1, [one for one in lead if one.end_byte <= body.start_byte][-1:])
        if len(self._lines) > mark:
            if language.closer:
                self._emit(depth, language.closer)
        elif self._lines:
            self._lines[-1] += language.closer if language.opener else "; end" if language.closer else " ..."

    def _value(self, node: Node, depth: int, scope: str, prefix: str, limit: int, joiner: str, span: Node) -> None:
        text = _short(self._slice(node, node.start_byte, node.end_byte), limit, joiner)
        self._emit(depth, prefix + text + self._language.ends.get(node.type, ""))
        if node.type in self._language.forward:
            return
        if self._language.roles.get(node.type) == "import":
            return
        names: dict[str, None] = {}
        target = node.named_children[0] if node.type == "expression_statement" and node.named_child_count else node
        self._names(target, names, 0)
        said = node.type == "call" and _SYMBOLS.match(self._source, node.start_byte, node.end_byte)
        if said:  # attr_accessor :a, :b
            names.update(dict.fromkeys(name.decode() for name in _NAME.findall(said[1])))
        first, last = span.start_point.row, _last_row(span)
        for name in names:
            self._note(name, scope + name, first, last)

    def _symbol(self, node: Node, scope: str, span: Node) -> str:
        """Note a function's or container's name; returns the scope of what is inside."""
        names: dict[str, None] = {}
        self._names(node, names, 0, deep=False)
        name = next(iter(names), "")
        if not name:  # Rust: impl Trait for Type
            kind = node.child_by_field_name("type")
            found = _NAME.match(self._source, kind.start_byte, kind.end_byte) if kind else None
            if found:
                self.spans.append((scope + found[0].decode(), span.start_point.row, _last_row(span)))
                return f"{scope}{found[0].decode()}."
            return scope
        self._note(name, scope + name, span.start_point.row, _last_row(span))
        return f"{scope}{name}."

    def _note(self, name: str, qualified: str, first: int, last: int) -> None:
        if len(self.spans) < MAX_SYMBOLS:
            self.defines[name] = None
            self.spans.append((qualified, first, last))

    def _names(self, node: Node, into: dict[str, None], level: int, deep: bool = True) -> None:
        """The names that a declaration declares: down its fields, and into its groups."""
        if level > 8 or len(into) > 200:
            return
        found: list[Node] = []
        for field in ("name", "declarator", "left", "pattern", "property"):
            found = node.children_by_field_name(field)
            if found:
                break
        if not found and node.type.endswith(("reference_declarator", "parenthesized_declarator", "pattern_list")):
            found = node.named_children
        if node.type == "const_element":
            found = node.named_children[:1]
        for child in found:
            if child.child_count and child.type not in {"private_property_identifier", "variable_name", "name"}:
                self._names(child, into, level + 1, deep)
            elif name := _NAME.search(self._source, child.start_byte, child.end_byte):
                into[name[0].decode()] = None
        if deep:
            for child in node.named_children:
                if child.type in self._language.groups and child not in found:
                    self._names(child, into, level + 1)

    # -- where to cut

    def _stop(self, node: Node) -> Node | None:
        stops = self._language.stops
        return next((child for child in node.children if child.type in stops), None) or node.child_by_field_name("body")

    def _body(self, node: Node) -> Node | None:
        members = self._language.members
        body = node.child_by_field_name("body")
        if body is not None and body.type in members:
            return body
        kind = node.child_by_field_name("type")
        for parent in (node, kind) if kind is not None else (node,):
            if parent.type == "interface_type":
                return parent
            for child in parent.named_children:
                if child.type in members:
                    return child
        return None

    def _slice(self, node: Node, start: int, end: int) -> str:
        """The node's text up to `end`, without comments and without the bodies in it."""
        source = self._source
        if not _MAY_HIDE.search(source, start, end):
            return source[start:end].decode()
        language = self._language
        cuts: list[tuple[int, int, bytes]] = []
        stack, seen = [node], 0
        while stack:
            one = stack.pop()
            if one.type in language.lambdas and (body := self._stop(one)) is not None:
                cuts.append((body.start_byte, body.end_byte, b"..."))
            for child in one.children:
                if child.start_byte >= end:
                    break
                seen += 1
                if seen > MAX_CUTTING:
                    end = min(end, child.start_byte)
                    stack.clear()
                    break
                if language.roles.get(child.type) == "comment":
                    cuts.append((child.start_byte, child.end_byte, b""))
                elif child.type in language.bodies:
                    cuts.append((child.start_byte, child.end_byte, b"..."))
                elif child.child_count:
                    stack.append(child)
        parts: list[bytes] = []
        at = start
        for first, last, instead in sorted(cuts):
            if at <= first < end:
                parts += (source[at:first], instead)
            at = max(at, last)
        if at < end:
            parts.append(source[at:end])
        return b"".join(parts).decode("utf-8", "ignore")

    def _plain(self, start: int, end: int) -> str:
        """The words between two nodes, e.g. `export default `, with one space behind them."""
        text = _short(self._source[start:end].decode("utf-8", "ignore"), VALUE_CHARS)
        return text + " " if text else ""

    # -- words before, and docstrings

    def _before(self, nodes: list[Node], depth: int) -> None:
        """The first line of the comment before a declaration, and its attributes."""
        said = False
        for node in nodes[:40]:
            text = self._source[node.start_byte : node.end_byte].decode("utf-8", "ignore")
            if self._language.roles.get(node.type) == "note":
                self._emit(depth, _short(text, VALUE_CHARS))
            elif not said and (line := _first_words(text)):
                said = True
                self._emit(depth, f"{self._language.line_comment} {line}")

    def _docstring(self, body: Node, depth: int) -> None:
        if doc := self._doc_of(body):
            self._emit(depth, doc)

    def _doc_of(self, body: Node) -> str:
        """The first line of a docstring, in its quotes."""
        first = next((child for child in body.named_children if child.type != "comment"), None)
        if first is None or first.type != "expression_statement" or first.named_child_count != 1:
            return ""
        string = first.named_children[0]
        if string.type != "string":
            return ""
        text = self._source[string.start_byte : string.end_byte].decode("utf-8", "ignore")
        lines = _STRING_EDGE.sub("", text).strip().splitlines()
        return f'"""{_short(lines[0], DOC_CHARS)}"""' if lines else ""

    def _emit(self, depth: int, line: str) -> None:
        if line and self._size + len(line) < MAX_SKELETON:
            self._lines.append(self._language.indent * depth + line)
            self._size += len(self._lines[-1]) + 1


def _last_row(node: Node) -> int:
    """The last row with something of the node on it; some nodes end behind their newline."""
    row, column = node.end_point
    return row - 1 if column == 0 and row > node.start_point.row else row


def _short(text: str, limit: int, joiner: str = " ") -> str:
    """On one line, at most about `limit` characters."""
    if "\n" in text:
        if joiner != " ":
            text = re.sub(r"\s*\n\s*", joiner, text.strip())
            text = re.sub(r"([({,])[; ]+", r"\1", text)
            text = re.sub(r"[; ]+([)}])", r"\1", text)
        text = text.replace("\\\n", " ")
        text = re.sub(r"([(\[]) | ?,? ([)\]])", r"\1\2", _SPACE.sub(" ", text))
    text = text.strip()
    return text if len(text) <= limit else text[:limit].rstrip() + " ..."


def _first_words(comment: str) -> str:
    for line in comment.splitlines()[:20]:
        words = _SPACE.sub(" ", _COMMENT_MARK.sub("", line)).strip()
        if words and any(letter.isalnum() for letter in words) and not _PRAGMA.match(words):
            return words[:DOC_CHARS]
    return ""
