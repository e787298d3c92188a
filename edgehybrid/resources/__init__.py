"""What ships beside the code, parsed into records.

tables.py     folders and TOML, every key and type checked
profiles.py   `profiles/`: one target per file, at a power mode and a JetPack where asked
sets.py       `calib/`: image sets with the hash of every file
"""

from edgehybrid.resources.profiles import at_jetpack, at_mode, load_target, targets
from edgehybrid.resources.sets import Split, find_image_set, image_sets, load_image_set

__all__ = [
    "Split",
    "at_jetpack",
    "at_mode",
    "find_image_set",
    "image_sets",
    "load_image_set",
    "load_target",
    "targets",
]
