"""Finders: what turns an image into cells, in two steps.

`predict` runs a network over a batch of images in the main process, where the device is; `label` turns an image and its
prediction into cells in any worker process. A finder without a network has no `predict`; its prediction is None, or
what `known` says of the image by its ID.
"""

import argparse
import hashlib
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

import competitions
from augment.views import parse_views
from cells.instances import otsu_watershed, texture_watershed
from cells.masks import decode_mask
from cells.segmentator_labels import Rules, label_image
from cells.watershed import find_cells
from common.errors import UserError
from common.files import digest
from competitions import hpa


class Found(NamedTuple):
    """The cells of an image: as label images, int32 (H, W), 0 = background, a nucleus with its cell's id, ids from 1;
    or as boxes (n, 4), x1, y1, x2, y2 in pixels, with the ids 1 to n. The id's score is scores[id - 1] (without them 1)
    and its class labels[id - 1] (without them unknown).
    """

    cells: np.ndarray | None = None
    nuclei: np.ndarray | None = None
    boxes: np.ndarray | None = None
    scores: np.ndarray | None = None
    labels: np.ndarray | None = None


class Finder(NamedTuple):
    """label(image, prediction) -> Found; picklable. predict(images) -> one prediction an image. Images are (H, W, C),
    uint8 or uint16.
    """

    label: Callable[[np.ndarray, Any], Found]
    predict: Callable[[list[np.ndarray]], list] | None = None
    known: Callable[[str], Any] | None = None
    settings: dict | None = None  # what its results depend on besides the image
    state: Callable[[str], str] | None = None  # the same of one image, by its ID
    about: str = ""  # a line for the user on where it runs


def make_watershed(args: argparse.Namespace) -> Finder:
    """The finder `watershed`."""
    if competitions.get(args.competition, args.classes).CHANNELS != hpa.CHANNELS:
        raise UserError("--finder watershed is for the channels of hpa; choose another finder")
    return Finder(label_watershed)


def label_watershed(image: np.ndarray, prediction: None) -> Found:
    """Cells and nuclei of an image, from the image alone."""
    return Found(*find_cells(image))


def make_baseline(args: argparse.Namespace) -> Finder:
    """The finders `otsu` and `texture`: a threshold and a watershed, to have something to compare networks with."""
    return Finder(partial(label_baseline, find={"otsu": otsu_watershed, "texture": texture_watershed}[args.finder]))


def label_baseline(image: np.ndarray, prediction: None, find: Callable[[np.ndarray], np.ndarray]) -> Found:
    """The cells of an image, of no known class."""
    cells = find(image)
    return Found(cells, np.zeros_like(cells))


def make_hpacellseg(args: argparse.Namespace) -> Finder:
    """The finder `hpacellseg`; UserError when a weight file is missing or not the network's, or a flag is off."""
    from cells.hpacellseg import Segmentator  # with torch, which the other finders do without
    from engine.device import describe, make_fabric

    if not 0 < args.label_scale <= 1:
        raise UserError(f"--label_scale {args.label_scale} must be above 0 and at most 1")
    fabric = make_fabric(args.gpu_id, mixed_precision=True, single=True)
    networks = Segmentator(args.nuc_model, args.cell_model, fabric.device)
    weights = {name: digest(getattr(args, name)) for name in ("nuc_model", "cell_model")}
    label = partial(label_hpacellseg, rules=Rules(scale=args.label_scale))
    settings = {"label_scale": args.label_scale, **weights}
    return Finder(label, networks.predict, settings=settings, about=describe(fabric))


def label_hpacellseg(image: np.ndarray, prediction: Any, rules: Rules) -> Found:
    """Cells and nuclei by the published steps."""
    return Found(*label_image(image, prediction, rules=rules))


def make_network(args: argparse.Namespace) -> Finder:
    """The finder `network`: detectors or networks of class maps that train.py trained, alone or together; under one of
    the NETWORKS' names those of this kind alone.
    """
    from cells.network_finder import Fusing, NetworkFinder
    from engine.device import describe, make_fabric

    if not args.weights:
        raise UserError(f"--finder {args.finder} needs --weights, checkpoints of train.py joined by commas")
    fabric = make_fabric(args.gpu_id, mixed_precision=True, single=True)
    competition = competitions.get(args.competition, args.classes)
    most = args.max_cells or max(300, competition.MAX_DETECTIONS)
    fusing = Fusing(args.fuse, args.fuse_iou, args.fuse_distance, args.score_threshold, args.nms_iou, most)
    views = parse_views(args.augment)
    paths = args.weights.split(",")
    zooms = parse_zooms(args.zooms)
    finder = NetworkFinder(paths, competition, views, fusing, fabric, args.tile, zooms)
    for path, (_, own) in zip(paths, finder.networks, strict=True):
        if args.finder in NETWORKS and not own["arch"].startswith(f"{args.finder}_"):
            raise UserError(f"--finder {args.finder}: {path} is a {own['arch']}; network takes any")
    if finder.maps and args.max_cells:
        raise UserError("--max_cells is for detectors; the cells of class maps are what --score_threshold leaves")
    looks = {"views": views, "tile": args.tile, "zooms": zooms}
    settings = {"weights": [digest(path) for path in paths], **looks, **fusing._asdict()}
    about = describe(fabric)
    if not finder.named and len(competition.CLASSES) > 1:
        about += f"; --weights do not tell the classes of {args.competition} apart: which one a cell has is left open"
    return Finder(finder.label, finder.predict, settings=settings, about=about)


def parse_zooms(text: str) -> list[float]:
    """The numbers of --zooms.

    >>> parse_zooms("0.8,1")
    [0.8, 1.0]
    """
    try:
        zooms = [float(part) for part in text.split(",")]
    except ValueError:
        zooms = []
    if not zooms or not all(1 / 16 <= zoom <= 16 for zoom in zooms) or len(set(zooms)) < len(zooms):
        raise UserError(f"--zooms {text} must be different numbers from 0.0625 to 16, joined by commas: 0.8,1,1.25")
    return zooms


def make_truth(args: argparse.Namespace) -> Finder:
    """The finder `truth`: the labelled cells of the metadata themselves, to train classifiers on."""
    competition = competitions.get(args.competition, args.classes)
    table = competition.read_cells(args.truth or args.metadata, root=args.root_dir)
    rows = pd.util.hash_pandas_object(table, index=False).to_numpy()
    groups = table.groupby("ImageID")
    states = {str(image): hashlib.sha256(rows[own].tobytes()).hexdigest() for image, own in groups.indices.items()}
    known = Known({str(image): own for image, own in groups}, states)
    return Finder(label_known, known=known.of, state=known.state)


class Known(NamedTuple):
    """Labelled cells by ImageID, as cells tables with a column Label."""

    tables: dict[str, pd.DataFrame]
    states: dict[str, str]  # a text that changes with the rows of an image

    def of(self, image_id: str) -> pd.DataFrame | None:
        """The rows of an image; None where it has none."""
        return self.tables.get(image_id)

    def state(self, image_id: str) -> str:
        """A text that changes with the rows of an image; empty where it has none."""
        return self.states.get(image_id, "")


def label_known(image: np.ndarray, table: pd.DataFrame | None) -> Found:
    """The labelled cells of an image: its masks where the table has masks, else its boxes."""
    if table is None:
        return Found(boxes=np.zeros((0, 4)), labels=np.zeros(0, np.int64))
    labels = table["Label"].to_numpy()
    if not table["PredictionString"].iloc[0]:
        return Found(boxes=table[["x1", "y1", "x2", "y2"]].to_numpy(float), labels=labels)
    cells = np.zeros(image.shape[:2], np.int32)
    for number, text in enumerate(table["PredictionString"], start=1):
        cells[decode_mask(text, *cells.shape)] = number
    return Found(cells, np.zeros_like(cells), labels=labels)


NETWORKS = ("centernet", "yolox", "maskrcnn", "unet")  # kinds of the finder `network`, by the first word of --arch

# Name -> what makes the finder from segment.py's flags, and the flags that are its own.
FINDERS: dict[str, Callable[[argparse.Namespace], Finder]] = {
    "watershed": make_watershed,
    "otsu": make_baseline,
    "texture": make_baseline,
    "hpacellseg": make_hpacellseg,
    "network": make_network,
    **dict.fromkeys(NETWORKS, make_network),
    "truth": make_truth,
}
OWN_FLAGS = {
    "hpacellseg": ("nuc_model", "cell_model", "label_scale"),
    "network": (
        "weights", "augment", "zooms", "fuse", "fuse_iou", "fuse_distance", "score_threshold", "nms_iou", "max_cells",
        "tile",
    ),
    "truth": ("truth",),
}  # fmt: skip


def refuse_other_flags(args: argparse.Namespace, default: Callable[[str], Any]) -> None:
    """UserError when a flag is given, other than its default, that the chosen finder would ignore."""
    for finder, flags in OWN_FLAGS.items():
        for flag in flags:
            if getattr(args, flag) != default(flag) and FINDERS[args.finder] is not FINDERS[finder]:
                raise UserError(f"--finder {args.finder} does not use --{flag}, it belongs to {finder}: leave it out")
