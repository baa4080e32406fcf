"""What the prefetcher of an engine should keep warm, in order. Pure.

The workspace used last comes first; in it completions before chat; of a lane first the journal of what serves now
(it is short, and a save waits for it), then the next epoch, then the neighbourhoods of the open files, each with its
runway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from aicockpit.workspace.epoch import Chain
from aicockpit.workspace.sight import Sight
from aicockpit.workspace.steps import Key, Target
from aicockpit.workspace.track import Track


def wishes(tracks: Iterable[Track], engine: str, sight: Sight) -> list[Target]:
    """Targets of one engine; `tracks` in order of importance. A higher priority comes first."""
    found = [one for track in tracks for one in _of(track, engine, sight)]
    return [
        Target(key, chain.tokens, tuple(cut.end for cut in chain.cuts), float(len(found) - place))
        for place, (key, chain) in enumerate(found)
        if chain.tokens
    ]


def _of(track: Track, engine: str, sight: Sight) -> Iterator[tuple[Key, Chain]]:
    if not track.epochs:
        return
    choice = track.choose(engine, sight)
    newest = track.epochs[0]
    serving = choice.epoch if choice else newest
    for epoch in (serving, newest) if serving is not newest else (newest,):
        if epoch.newest is not None:
            yield track.key(epoch), epoch.newest
    for path, opened in track.open.items():
        one = opened.nears.get(serving.serial)
        if one is not None and one.chain is not None and one.chain is not one.under:
            yield track.key(serving, path), one.chain


def same(one: Sequence[Target], other: Sequence[Target]) -> bool:
    """The same wishes in the same order."""
    return len(one) == len(other) and all(
        a.key == b.key and a.tokens is b.tokens for a, b in zip(one, other, strict=True)
    )
