"""The words of a text and of a question, as the index knows them. Pure; any text is a legal question."""

from __future__ import annotations

import re

# Parts of names in code are found too: create_task, createTask, asyncio.create_task, HTTPServer2.
_NAME = re.compile(r"[^\W\d]\w*(?:[.\-/:]{1,2}\w+)*")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_A-Za-z]+")
_WORD = re.compile(r"[\w.\-/:+#$@]+")
_TOKEN = re.compile(r"\w+")
# Written without spaces, so pairs of neighbours stand for words.
_DENSE = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\u0e00-\u0e7f]+")
_TERMS = 48
_EXTRA = 4000
_LONGEST = 64
_STOP = frozenset(
    """
    a about after all also am an and any are as at be because been before being but by can could did do does doing
    for from get got had has have having he her here him his how i if in into is it its just let like me many more most
    much
    my need no not of on one only or other our out over please she should show so some such tell than that the their
    them then there these they this those to too under up use used using very want was way we were what when where
    which while who why will with would you your
    """.split()  # noqa: SIM905
)


def extra(text: str) -> str:
    """Words that the tokenizer does not see in a text: the parts of names in code, pairs of dense scripts."""
    found: dict[str, None] = {}
    size = 0
    for word in (*_names(text), *_pairs(text)):
        if word not in found:
            found[word] = None
            size += len(word) + 1
            if size > _EXTRA:
                break
    return " ".join(found)


def question(text: str) -> str:
    """An FTS5 expression for any text, or '' where it has no word. Terms are quoted and joined by OR.

    Of a name, the whole and its parts side by side are looked for; of words, those that say something.
    """
    terms: dict[str, None] = {}
    words = _WORD.findall(text)
    telling = [word for word in words if word.lower() not in _STOP]
    for word in telling or words:
        for term in _terms(word):
            terms[term] = None
            if len(terms) >= _TERMS:
                return " OR ".join(terms)
    return " OR ".join(terms)


def names(text: str) -> str:
    """The same for the names of code in a text alone: who writes `create_task` means it."""
    terms = {term: None for word in _WORD.findall(text) if _is_name(word) for term in _terms(word)}
    return " OR ".join(list(terms)[:_TERMS])


def _is_name(word: str) -> bool:
    """Does a word look like a name in code: an underscore, a dot or capitals inside?"""
    inner = word.strip(".-/:+#$@?!")
    return "_" in inner.strip("_") or bool(re.search(r"\w(?:\.|::)\w|[a-z][A-Z]", inner))


def _terms(word: str) -> list[str]:
    found = []
    for run in _TOKEN.findall(_DENSE.sub(" ", word)):
        if len(run) <= _LONGEST and run.strip("_"):
            found.append(_quoted(run))
            parts = _split(run)
            if len(parts) > 1:
                found.append(_quoted(" ".join(parts)))
    found += [_quoted(pair) for pair in _pairs(word)]
    whole = [part for part in _TOKEN.findall(word) if part.strip("_")]
    if 1 < len(whole) <= 6 and not _DENSE.search(word):  # asyncio.create_task: the tokens side by side
        found.append(_quoted(" ".join(whole)))
    return found


def _quoted(text: str) -> str:
    return '"' + text.replace('"', " ") + '"'


def _names(text: str) -> list[str]:
    found = []
    for match in _NAME.finditer(text):
        name = match.group()
        if len(name) <= 2 * _LONGEST and ("_" in name or not (name.islower() or name.istitle())):
            parts = _split(name)
            if len(parts) > 1:
                found.append(" ".join(parts))
    return found


def _split(name: str) -> list[str]:
    return [part.lower() for part in _PART.findall(name)]


def _pairs(text: str) -> list[str]:
    found = []
    for match in _DENSE.finditer(text):
        run = match.group()
        found += [run[at : at + 2] for at in range(len(run) - 1)] if len(run) > 1 else [run]
    return found
