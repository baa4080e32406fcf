"""Pages as blocks, blocks as pieces: what is kept, what is dropped, and that code stays as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicockpit.documents import html, text
from aicockpit.documents.chunks import cut
from aicockpit.documents.values import Block, Limits

SPHINX = """<html><head><title>Queues — Project 1.2 documentation</title></head><body>
<div class="sphinxsidebar"><a href="x.html">Contents</a></div><nav>Home > Queues</nav>
<div class="document"><div class="body" role="main"><section id="queues">
<h1>Queues<a class="headerlink" href="#queues">¶</a></h1>
<p>A queue <em>holds</em> <code>items</code> for&nbsp;tasks.</p>
<div class="highlight-python notranslate"><div class="highlight"><pre><span>queue</span> = asyncio.Queue(
    maxsize=3)
if  a  &lt; b:
\tpass</pre></div></div>
<dl><dt class="sig" id="asyncio.Queue.join">async join()<a class="headerlink" href="#a">¶</a></dt>
<dd><p>Wait until done.</p></dd></dl>
<ul><li>first</li><li>second<ul><li>inner</li></ul></li></ul>
<table><tr><th>name</th><th>value</th></tr><tr><td>a</td><td>1</td></tr></table>
</section></div></div><footer>Copyright</footer><script>alert(1)</script></body></html>"""


def shown(blocks: tuple[Block, ...]) -> str:
    return "\n".join(f"{block.kind}{block.level or ''}: {block.text}" for block in blocks)


def test_a_page_keeps_what_it_says_and_drops_what_is_around_it() -> None:
    found = html.read(SPHINX)
    assert found.title == "Queues"
    told = shown(found.blocks)
    assert told.splitlines()[0] == "heading1: Queues"
    assert "A queue holds `items` for tasks." in told
    assert "code: python\nqueue = asyncio.Queue(\n    maxsize=3)\nif  a  < b:\n\tpass" in told
    assert "heading6: async join()" in told
    assert "- first" in told
    assert "  - inner" in told
    assert "| name | value |\n| a | 1 |" in told
    for gone in ("Contents", "Home >", "Copyright", "alert", "¶"):
        assert gone not in told
    anchors = {block.text: block.anchor for block in found.blocks if block.kind == "heading"}
    assert anchors == {"Queues": "queues", "async join()": "asyncio.Queue.join"}
    assert found.links == ("x.html", "#queues", "#a")


def test_a_main_part_that_is_nearly_empty_is_not_the_page() -> None:
    found = html.read(
        "<body><main>Menu</main><div><h1>Real</h1><p>" + "All the text is here. " * 30 + "</p></div></body>"
    )
    assert "All the text is here." in shown(found.blocks)


@pytest.mark.parametrize("deep", [200, 3000])
def test_deep_nesting_is_read(deep: int) -> None:
    found = html.read("<body>" + "<div>" * deep + "the bottom" + "</div>" * deep + "</body>")
    assert "the bottom" in shown(found.blocks)


@pytest.mark.parametrize(
    ("kind", "piece"),
    [
        *(("html", one) for one in ("<div>", "<b><i>", "<ul><li>", "<table><tr><td>", "<p>", "<a href=x", "<!--")),
        *(("markdown", one) for one in ("[", "# [", "<!--", "```\n", "a\n=\n", "\n", "# ")),
        *(("rst", one) for one in ("a::\n", "===\n", "::\n\n\n", ".. code::\n")),
    ],
)
@pytest.mark.timeout(20)
def test_a_page_made_to_be_slow_is_not(kind: str, piece: str) -> None:
    document = text.read(piece * (1_000_000 // len(piece)), kind, "name")
    cut(document.blocks, document.title)


@given(st.text(max_size=400))
def test_anything_is_a_page(raw: str) -> None:
    for kind in ("html", "markdown", "rst", "plain"):
        document = text.read(raw, kind, "name")
        for piece in cut(document.blocks, document.title, Limits(chunk=60, longest_chunk=100)):
            assert piece.body.strip()


@pytest.mark.parametrize(
    ("raw", "declared", "expected"),
    [
        ("grün".encode(), "", "grün"),
        ("grün".encode("latin-1"), "iso-8859-1", "grün"),
        ("grün".encode("latin-1"), "utf-8", "grün"),  # the header is wrong
        ('<meta charset="shift_jis">日本'.encode("shift_jis"), "", "日本"),
        ('<meta http-equiv="x" content="text/html; charset=koi8-r">мир'.encode("koi8-r"), "", "мир"),
        ("\ufeffgrün".encode("utf-16-le"), "utf-8", "grün"),
        ("“quoted”".encode("cp1252"), "iso-8859-1", "“quoted”"),
        (b"\xff\xfe\xfa", "no-such-charset", None),
    ],
)
def test_a_charset_is_found_and_a_wrong_one_passed_over(raw: bytes, declared: str, expected: str | None) -> None:
    found = html.decode(raw, declared)
    assert isinstance(found, str)
    if expected is not None:
        assert found.endswith(expected)


def test_markdown_is_read_by_its_headings_and_fences() -> None:
    found = text.read(
        "---\ntitle: Guide\n---\n# Guide\n\nIntro [a](other.md) ![i](x.png).\n\n"
        "Setup\n-----\n\n````py\n# not a heading\n```\n````\n"
        "<!-- hidden -->\n## Use `it` [here](x.md) {#use}\ntext\n",
        "markdown",
    )
    assert found.title == "Guide"
    assert found.links == ("other.md", "x.md")
    assert [(block.kind, block.level) for block in found.blocks if block.kind != "text"] == [
        ("heading", 1),
        ("heading", 2),
        ("code", 0),
        ("heading", 2),
    ]
    assert found.blocks[3].text == "py\n# not a heading\n```"
    assert (found.blocks[-2].text, found.blocks[-2].anchor) == ("Use it here", "use")


def test_restructured_text_is_read_by_its_adornments_and_blocks() -> None:
    found = text.read(
        "=====\nTitle\n=====\n\nIntro::\n\n    $ run --it\n\n    two\n\n"
        "Part\n----\n\n.. code-block:: python\n   :linenos:\n\n"
        "   def f():\n       pass\n\n.. note:: Mind this.\n\nText.\n",
        "rst",
    )
    assert found.title == "Title"
    told = shown(found.blocks)
    assert "heading1: Title" in told
    assert "heading2: Part" in told
    assert "code: \n$ run --it\n\ntwo" in told
    assert "code: python\ndef f():\n    pass" in told
    assert "Intro:" in told
    assert "Text." in told


def test_pieces_follow_headings_and_know_their_way() -> None:
    words = "Some words of this section that fill it. " * 14
    blocks = [
        Block("heading", "Page", 1),
        Block("text", words),
        Block("heading", "Part", 2, "part"),
        Block("text", words),
        Block("heading", "Detail", 3),
        Block("code", "py\nx = 1"),
        Block("text", words),
    ]
    found = cut(blocks, "Page")
    assert [(piece.heading, piece.anchor) for piece in found] == [("", ""), ("Part", "part"), ("Part > Detail", "part")]
    assert "```py\nx = 1\n```" in found[2].body


def test_small_sections_share_a_piece_and_large_code_is_split_between_lines() -> None:
    small = [part for n in range(3) for part in (Block("heading", f"S{n}", 2), Block("text", "short"))]
    assert len(cut(small, "Page")) == 1
    lines = [f"line number {n} = {n * n}" for n in range(400)]
    pieces = cut([Block("code", "py\n" + "\n".join(lines))], "Page")
    assert len(pieces) > 3
    told = "\n".join(piece.body.removeprefix("```py\n").removesuffix("\n```") for piece in pieces)
    assert told.splitlines() == lines
    assert max(len(piece.body) for piece in pieces) <= Limits().longest_chunk


def test_code_of_usual_length_is_never_cut() -> None:
    code = "\n".join(f"value_{n} = compute({n})" for n in range(70))
    blocks = [Block("text", "word " * 200), Block("code", f"py\n{code}"), Block("text", "word " * 200)]
    assert any(code in piece.body for piece in cut(blocks, "Page"))


@given(st.lists(st.tuples(st.sampled_from(["heading", "text", "code"]), st.text(max_size=300)), max_size=12))
def test_pieces_lose_no_word_and_stay_short(parts: list[tuple[str, str]]) -> None:
    blocks = [
        Block(kind, f"py\n{body}" if kind == "code" else body, 2 if kind == "heading" else 0) for kind, body in parts
    ]
    limits = Limits(chunk=120, longest_chunk=200)
    pieces = cut(blocks, "Page", limits)
    told = "".join(piece.body + piece.heading for piece in pieces)
    for block in blocks:
        if block.kind == "text":
            for word in block.text.split():
                if len(word) < 20:
                    assert word in told
    assert all(len(piece.body) <= 3 * limits.longest_chunk for piece in pieces)
