"""Where the images of COCO's unlabeled2017 lie: CIRCO and VisDial search among them."""

from __future__ import annotations

from pathlib import Path

from shared.datasets.annotation_files import dataset_folder

FOLDER = "unlabeled2017"
_PARENT = "COCO2017_unlabeled"


def image_folders(data_root: Path, dataset: str) -> tuple[Path, ...]:
    """Every place where `unlabeled2017` may lie, likeliest first: with the data set's own files,
    in the data root, and with CIRCO's files."""
    own, circo = dataset_folder(data_root, dataset), dataset_folder(data_root, "CIRCO")
    return tuple(
        home / place / FOLDER
        for home in dict.fromkeys((own, data_root, circo))
        for place in (_PARENT, ".")
    )
