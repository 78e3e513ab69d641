"""Little data sets in the exact layouts of the field's: rendered images, a few queries.

Every one has odd names where its layout allows them, a broken image and a missing file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.miniatures.captioned import write_flickr30k, write_mscoco, write_visdial
from tests.miniatures.composed import write_circo, write_cirr, write_fashioniq
from tests.miniatures.own_folder import write_own_folder
from tests.miniatures.pictures import Miniature

__all__ = [
    "WRITERS",
    "Miniature",
    "write_circo",
    "write_cirr",
    "write_fashioniq",
    "write_flickr30k",
    "write_mscoco",
    "write_own_folder",
    "write_visdial",
]

WRITERS: dict[str, Callable[[Path], Miniature]] = {
    "circo": write_circo,
    "cirr": write_cirr,
    "fashioniq-dress": lambda root: write_fashioniq(root, "dress"),
    "fashioniq-shirt": lambda root: write_fashioniq(root, "shirt"),
    "fashioniq-toptee": lambda root: write_fashioniq(root, "toptee"),
    "flickr30k": write_flickr30k,
    "mscoco": write_mscoco,
    "visdial": write_visdial,
    "folder:my pictures": write_own_folder,
}
"""Name for `load_dataset` -> what writes the miniature below a data root."""
