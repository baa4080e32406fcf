"""What every room works with: the store, the builder, the engines as they are seen, and the limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from aicockpit.errors import AicockpitError
from aicockpit.workspace.budget import Worth
from aicockpit.workspace.builds import Builds, ModelSpec
from aicockpit.workspace.sight import Sight
from aicockpit.workspace.store import Store
from aicockpit.workspace.track import EpochLimits

# (engine, model, system text) -> the token ids that every conversation with it begins with.
Render = Callable[[str, str, str], Awaitable[tuple[int, ...]]]


class RenderRefused(AicockpitError):
    """An engine will not render chats of a model for as long as it lives: it has no template for them, mostly."""


@dataclass(frozen=True, slots=True)
class Desk:
    """See the module. `rooms` counts those that share the KV caches; `changed` has the engines told what to warm now.

    `render` raises RenderRefused, or another AicockpitError when it may do better later.
    `clock` is monotonic, in seconds; `today` the time of day as the engines' templates print it.
    """

    store: Store
    builder: Builds
    sight: Sight
    render: Render
    models: Callable[[], Sequence[ModelSpec]]
    worth: Callable[[str, str], Worth]
    rooms: Callable[[], int]
    changed: Callable[[], None]
    clock: Callable[[], float]
    today: Callable[[], datetime]
    limits: EpochLimits
