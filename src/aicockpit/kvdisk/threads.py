"""Where the tier's own threads run; loader and writer ask it."""

from __future__ import annotations

import contextlib
import os
import threading


def stand_back(nice: int = 0) -> None:
    """This thread is not the engine's: off the core that its maker is bound to, onto all that its process's parent may
    use, and behind the engine where both want one."""
    with contextlib.suppress(OSError, AttributeError):
        os.sched_setaffinity(0, os.sched_getaffinity(os.getppid()))
    if nice:
        with contextlib.suppress(OSError, AttributeError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
