"""What an editor and an operator want to know of a workspace, as plain values for the API."""

from __future__ import annotations

from typing import Any

from aicockpit.workspace.epoch import Epoch
from aicockpit.workspace.lookout import Lookout, reason_for
from aicockpit.workspace.opened import Opened
from aicockpit.workspace.room import Room
from aicockpit.workspace.sight import Sight
from aicockpit.workspace.steps import WarmState
from aicockpit.workspace.track import Track

# Entries and files that one answer lists.
LISTED = 500


def status_of(room: Room, sight: Sight, now: float) -> dict[str, Any]:
    """Times in seconds, sizes in tokens; null where nothing is known."""
    models: dict[str, Any] = {}
    for (model, kind), track in room.tracks.items():
        one = models.setdefault(model, {"style": track.described.style, "reason": track.described.reason, "lanes": {}})
        one["lanes"][kind] = _lane(room, track, sight, now)
    for (model, kind), why in room.refused.items():
        one = models.setdefault(model, {"style": None, "reason": "", "lanes": {}})
        one["lanes"][kind] = {"state": "off", "reason": why}
    for model, why in room.absent.items():
        models[model] = {"style": None, "reason": why, "lanes": {}}
    left = room.census.shown(room.files)
    return {"models": models, "reason": room.problem, "files": len(room.files), "left_out": left}


def _lane(room: Room, track: Track, sight: Sight, now: float) -> dict[str, Any]:
    engines = {name: _engine(track, name, sight) for name in sight.serving(track.spec.name)}
    serving = track.in_service(sight)
    epoch = serving[0] if serving else None
    build, halted = track.building, room.halted(track)
    last = track.last
    return {
        "state": "stuck" if halted else _best(engines, track),
        "reason": halted or track.problem,
        "epoch": _epoch(epoch) if epoch else None,
        "next": _epoch(track.epochs[0]) if track.epochs and track.epochs[0] is not epoch else None,
        "budget": {
            "pack": track.budget.pack,
            "journal": track.budget.journal,
            "neighbourhood": track.budget.neighbourhood,
            "similar": track.budget.similar,
            "reasons": list(track.budget.reasons),
        },
        "build": None if build is None else {"why": build.why, "files": build.done, "of": build.total},
        "last_build": None
        if last is None
        else {
            "seconds": round(last.seconds, 3),
            "files": last.files,
            "too_large": last.left.large,
            "beyond_limit": last.left.beyond,
            "unreadable": last.left.gone,
            "crashed": list(last.left.crashed),
        },
        "focus": [_open_file(room, track, path, opened, epoch, sight) for path, opened in track.open.items()],
        "engines": engines,
        "last_save_to_warm_s": None if track.save_to_warm_s is None else round(track.save_to_warm_s, 3),
        "predicted_ttft_s": _ttft(track, engines),
    }


def _epoch(epoch: Epoch) -> dict[str, Any]:
    pack = epoch.pack
    starts = (pack.header, *pack.cuts)
    items = zip(pack.items, starts, pack.cuts, strict=False)
    return {
        "id": pack.id,
        "tokens": len(pack.tokens),
        "files_in_pack": len(pack.items),
        "files": [
            {"path": item.path, "kind": item.kind, "tokens": end - start, "why": item.why}
            for item, start, end in list(items)[:LISTED]
        ],
        "journal_tokens": epoch.journal_tokens,
        "journal": [{"path": entry.path, "tokens": len(entry.tokens)} for entry in epoch.entries[-LISTED:]],
    }


def _open_file(
    room: Room, track: Track, path: str, opened: Opened, epoch: Epoch | None, sight: Sight
) -> dict[str, Any]:
    """`files`: skeletons; `snippets` as they stand in the prompt, best last; `warm_on`: engines that have all of it.

    `runway_line`: the line that an editor told of and the runway was cut for; null when a request came since.
    """
    near, lookout = opened.nears.get(epoch.serial) if epoch else None, opened.lookout
    items, found = near.near.items if near else (), lookout.found
    return {
        "path": path,
        "files": [{"path": other, "why": reason, "tokens": size} for other, reason, size in items],
        "snippets": [
            {"path": one.path, "first_line": one.first, "last_line": one.last, "why": reason_for(one)}
            for one in found.snippets
        ],
        "similar": _similar(room, track, lookout),
        "similar_tokens": len(found.tokens),
        "runway_tokens": near.chain.runway if near and near.chain else 0,
        "runway_line": opened.landed[0] if opened.landed and near and near.chain and not near.moved else None,
        "warm_on": track.warm_on(path, sight),
    }


def _similar(room: Room, track: Track, lookout: Lookout) -> str:
    """How the search for snippets stands, for people."""
    search = room.surroundings.search
    if not track.budget.similar or track.kind != "completion":
        return "off: the budget has no tokens for it"
    if lookout.problem:
        return f"stuck: {lookout.problem}"
    if lookout.searching and search is not None and search.total:
        return f"searching: {search.done} of {search.total} files read"
    if lookout.searching:
        return "searching"
    if lookout.used is None and lookout.pending:
        return "to be searched"
    if lookout.used is None:
        return "nothing was searched for yet: no request of this file had text before its cursor"
    left = f"; {lookout.found.left_out} files left out: the index is full" if lookout.found.left_out else ""
    return f"searched in {lookout.found.chunks} places{left}"


def _engine(track: Track, name: str, sight: Sight) -> dict[str, Any]:
    """How one engine stands with what it should serve: the epoch that serves there, and how far the newest is.

    `why_inexact`: why what is said to be resident is an estimate; empty while the engine's KV events tell it. `origin`
    is of the newest head's last warming; its parts are all that is there of it.
    """
    if not track.epochs:
        return {"state": "cold", "resident_tokens": 0, "resident_fraction": 0.0, "reason": "nothing is built yet"}
    newest = track.epochs[0]
    choice = track.choose(name, sight)
    progress = sight.progress(name, track.key(newest))
    tokens, share = track.resident_share(newest, name, sight)
    age = sight.warmth.resident(name, choice.chain.tokens) if choice else None
    waits = None if progress.state is WarmState.WARM else sight.waits_s(name)
    quiet = f"waiting {waits:.0f} s for a quiet moment: somebody's answer is in work" if waits and waits >= 1 else ""
    why = progress.reason or ("" if choice else track.why_empty(name, sight))
    return {
        "state": "warm" if choice and choice.epoch is newest and choice.whole else str(progress.state),
        "ready": sight.ready(name),
        "serves": choice.epoch.pack.id if choice else None,
        "serves_tokens": choice.cut.end if choice else 0,
        "resident_tokens": tokens,
        "resident_fraction": share,
        "verified_age_s": None if age is None else round(age.age_s, 1),
        "exact": bool(age and age.exact),
        "why_inexact": sight.warmth.why_inexact(name),
        "speed_tokens_s": progress.speed_tokens_s,
        "origin": {
            "computed": progress.origin.computed,
            "memory": progress.origin.memory,
            "tier": progress.origin.tier,
        },
        "waiting_s": None if waits is None else round(waits, 1),
        "reason": "; ".join(one for one in (why, quiet) if one),
    }


def _best(engines: dict[str, dict[str, Any]], track: Track) -> str:
    states = {one["state"] for one in engines.values()}
    for state in ("warm", "warming", "stuck"):
        if state in states:
            return state
    return "stuck" if track.problem.startswith("stuck") else "cold"


def _ttft(track: Track, engines: dict[str, dict[str, Any]]) -> float | None:
    """Seconds for the tokens that the last requests had to compute, at the fastest engine's measured prefill speed.

    The best case: a request that goes to a slower engine, or waits there for others, takes longer. None before a
    request with a head came, or while no engine's speed was measured.
    """
    speeds = [one["speed_tokens_s"] for one in engines.values() if one.get("speed_tokens_s")]
    if track.uncached is None or not speeds:
        return None
    return float(round(track.uncached / max(speeds), 3))
