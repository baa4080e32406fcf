"""An engine's writer that stores new blocks as fast as it can until it is killed: ROOT CAP FIRST-NUMBER."""

from __future__ import annotations

import random
import sys
import time
from itertools import count, islice
from pathlib import Path

from aicockpit.kvdisk.stats import Counts
from aicockpit.kvdisk.writer import Limits, Writer
from kvdisk_rig import PAYLOAD, filler, name_of, shelf_in

if __name__ == "__main__":
    root, cap, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(sys.argv[3])
    numbers = count(int(sys.argv[3]))
    writer = Writer(shelf_in(root), Limits(str(root), cap, reserve=0, retry_s=0.2), PAYLOAD, Counts())
    while True:
        for number in islice(numbers, chance.randrange(1, 200)):
            writer.keep(name_of(number), 0, filler(number))
        writer.flush(5)
        time.sleep(chance.random() * 0.02)
