"""How fast is the disk: a few stored blocks are read though nobody waits for them; the loader's thread asks here.

What a file's bytes cost depends on whether the system still has them in memory. A load finds them as they are, so a
probe leaves them as they were: what it had to fetch is let go again, or the next probe would measure memory.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

PROBE_BLOCKS = 4
_FILE = re.compile(r"([0-9a-f]{64})\.kv")
_FOLDERS = 8


def some_stored(folder: str, count: int = PROBE_BLOCKS, chance: random.Random | None = None) -> list[bytes]:
    """Names of up to `count` blocks of a shelf's folder, of a few of its folders only; none where none are found."""
    chance = chance or random.Random()
    found: list[bytes] = []
    with suppress(OSError):
        fans = sorted(os.listdir(folder))
        for fan in chance.sample(fans, min(len(fans), _FOLDERS)):
            with suppress(OSError):
                files = [match for name in os.listdir(os.path.join(folder, fan)) if (match := _FILE.fullmatch(name))]
                found += [bytes.fromhex(match[1]) for match in chance.sample(files, min(len(files), count))]
            if len(found) >= count:
                break
    return found[:count]


@contextmanager
def as_it_was(path: str) -> Iterator[None]:
    """Around reading a file: where its first bytes were not in memory before, it is not afterwards."""
    handle = None
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    held = handle is None or in_memory(handle)
    try:
        yield
    finally:
        if handle is not None:
            if not held:
                with suppress(OSError, AttributeError):
                    os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(handle)


def in_memory(handle: int) -> bool:
    """Are a file's first bytes to be had without asking the disk? Yes, where the system cannot tell."""
    try:
        os.preadv(handle, [bytearray(1)], 0, os.RWF_NOWAIT)
    except BlockingIOError:
        return False
    except (OSError, AttributeError):
        return True
    return True
