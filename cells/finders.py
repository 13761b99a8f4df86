"""Finders: what turns an image into cells, in two steps.

`predict` runs a network over a batch of images in the main process, where the device is; `label` turns an image and its
prediction into cells in any worker process. A finder without a network has no `predict`, its prediction is None.
"""

import argparse
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from cells.segmentator_labels import Rules, label_image
from cells.watershed import find_cells
from common.errors import UserError
from common.files import digest


class Finder(NamedTuple):
    """label(image, prediction) -> cells, nuclei: two label images, int32 (H, W), 0 = background, a nucleus with its
    cell's id; picklable. predict(images) -> one prediction an image. Images are (H, W, 4) RGBY, uint8 or uint16.
    """

    label: Callable[[np.ndarray, Any], tuple[np.ndarray, np.ndarray]]
    predict: Callable[[list[np.ndarray]], list] | None = None
    settings: dict | None = None  # what its results depend on besides the image
    about: str = ""  # a line for the user on where it runs


def make_watershed(args: argparse.Namespace) -> Finder:
    """The finder `watershed`; UserError when weights are given, which it would ignore."""
    for flag in ("nuc_model", "cell_model"):
        if getattr(args, flag):
            raise UserError(f"--finder watershed uses no weights: leave out --{flag} or choose another finder")
    return Finder(label_watershed)


def label_watershed(image: np.ndarray, prediction: None) -> tuple[np.ndarray, np.ndarray]:
    """Cells and nuclei of an image, from the image alone."""
    return find_cells(image)


def make_hpacellseg(args: argparse.Namespace) -> Finder:
    """The finder `hpacellseg`; UserError when a weight file is missing or not the network's, or a flag is off."""
    from cells.hpacellseg import Segmentator  # with torch, which the other finder does without
    from engine.device import describe, make_fabric

    if not 0 < args.label_scale <= 1:
        raise UserError(f"--label_scale {args.label_scale} must be above 0 and at most 1")
    fabric = make_fabric(args.gpu_id, mixed_precision=True)
    networks = Segmentator(args.nuc_model, args.cell_model, fabric.device)
    weights = {name: digest(getattr(args, name)) for name in ("nuc_model", "cell_model")}
    label = partial(label_image, rules=Rules(scale=args.label_scale))
    return Finder(label, networks.predict, {"label_scale": args.label_scale, **weights}, describe(fabric))


# Name -> what makes the finder from segment.py's flags.
FINDERS: dict[str, Callable[[argparse.Namespace], Finder]] = {
    "watershed": make_watershed,
    "hpacellseg": make_hpacellseg,
}
