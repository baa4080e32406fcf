"""A process that stores blocks as fast as it can until it is killed, past the page cache or into it.

`kvdisk_rig.block` says what each must hold.
"""

from __future__ import annotations

import sys
from itertools import count
from pathlib import Path

from aicockpit.kvdisk import files
from aicockpit.kvdisk.shelf import Shelf, age_ns
from kvdisk_rig import KEY, block, name_of

if __name__ == "__main__":
    shelf, size, uncached = Shelf(sys.argv[1], KEY), int(sys.argv[2]), sys.argv[4] == "uncached"
    for number in count(int(sys.argv[3])):
        name = name_of(number)
        buffer = files.aligned(files.room(size))
        buffer[files.HEADER.size :] = block(name, size)
        files.seal(buffer, KEY, name)
        shelf.make_room_for(name)
        files.write(shelf.path(name), buffer, age_ns(0), uncached=uncached)
        if number == int(sys.argv[3]):
            Path(sys.argv[1], "begun").touch()
