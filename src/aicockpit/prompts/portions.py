"""Long work cut into portions: a generator that pauses where other work may have its turn, and returns its result.

Pauses stand apart some tens of milliseconds at most (10,000 files), so that who drives one decides how long a portion
is.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")
Portions = Generator[None, None, T]


def whole(work: Portions[T]) -> T:
    """The result, made without a pause."""
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: T = done.value
            return found
