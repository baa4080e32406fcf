"""The chat lanes of one room: an engine renders the message in front of a conversation, by the model's own template."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import replace

from aicockpit.errors import AicockpitError
from aicockpit.prompts.chat import system_text
from aicockpit.workspace.desk import Desk, RenderRefused
from aicockpit.workspace.epoch import chat_chain, with_version
from aicockpit.workspace.past import Rendered
from aicockpit.workspace.track import Track
from aicockpit.workspace.troubles import Troubles

# An engine's name, and which of its lives.
_Life = tuple[str, int]


class Chats:
    """See the module. An engine that refuses is not asked again in that life: it has one template for all."""

    def __init__(self, desk: Desk, repo: str) -> None:
        self._desk, self._repo = desk, repo
        self._refused: dict[str, dict[_Life, str]] = {}

    def refusal(self, model: str) -> str:
        """Why no engine is to be asked for this model: all that are ready refused. "" when that is not so."""
        refused = self._refused.get(model, {})
        hopeless = refused and all(life in refused for life in self._ready(model))
        return list(refused.values())[-1] if hopeless else ""

    def forget(self, models: Container[str]) -> None:
        """Those not among `models`, which are served now."""
        self._refused = {model: lives for model, lives in self._refused.items() if model in models}

    async def render(self, track: Track, troubles: Troubles) -> None:
        """Ask for what is not rendered yet. Tried again later when it cannot.

        On another day the tokens may be others: some templates print the date in front of the message.
        """
        day = self._desk.today().date()
        if track.kind != "chat" or self._desk.clock() < track.render_at:
            return
        track.render_at = 0.0
        for place, epoch in enumerate(track.epochs):
            before = track.rendered.get(epoch.serial)
            if epoch.chains and before is not None and before.entries is epoch.entries and before.day == day:
                continue
            items = [(item.path, item.text) for item in epoch.pack.items]
            items += [(entry.path, entry.text) for entry in epoch.entries]
            text = system_text(items, self._repo, track.described.specials)
            tokens = await self._ask(track, troubles, text) if text else ()
            if tokens is None:
                return
            track.rendered[epoch.serial] = Rendered(epoch.entries, day)
            if epoch.newest is not None and epoch.newest.tokens == tokens:
                continue
            if before is not None and before.day != day:  # no request begins with what was rendered then
                epoch = replace(epoch, chains=())
            track.epochs[place] = with_version(epoch, chat_chain(tokens, epoch.pack, epoch.entries, text))
        troubles.well("render")

    async def _ask(self, track: Track, troubles: Troubles, text: str) -> tuple[int, ...] | None:
        """The tokens, by one engine or another; None: not now."""
        model, retry_s = track.spec.name, self._desk.limits.render_retry_s
        while True:
            refused = self._refused.get(model, {})
            life = next((life for life in self._ready(model) if life not in refused), None)
            if life is None:
                troubles.trying("render")
                track.render_at = self._desk.clock() + retry_s
                return None
            engine = life[0]
            try:
                tokens = await self._desk.render(engine, model, text)
            except RenderRefused as error:
                why = f"{engine} does not render chats of this model, and is asked again once it has restarted: {error}"
                others = {other: known for other, known in refused.items() if other[0] != engine}
                self._refused[model] = {**others, life: why}
            except AicockpitError as error:
                troubles.fail("render", f"{engine} did not render the chat: {error}", retry_s)
                track.render_at = troubles.at("render")
                return None
            else:
                return tokens

    def _ready(self, model: str) -> list[_Life]:
        sight, known = self._desk.sight, self._desk.sight.prefetchers()
        return [(name, known[name].engine.generation) for name in sight.serving(model) if sight.ready(name)]
