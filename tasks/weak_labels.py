"""What is peculiar to networks that learn about cells from the labels of their images: flags, samples, options.

Their names begin with bag_, pooled_ or duo_, or end in _cam; every other classifier passes through here unchanged.
"""

import argparse

from torch import distributed

from common.errors import UserError
from competitions import Competition
from engine.data import Samples
from engine.image_cells import Bags, LabelledImages, bags_of, with_labels
from engine.nuclei import nuclei_of
from engine.samples import open_samples
from models import BagOfCells, Classifier, DuoBranch, MaskPooled, PuzzleCAM, wrapper_of
from models.bag import POOLS

FLAGS = (
    "cache_dir", "crop_dir", "cells_per_image", "pool", "cell_loss", "image_loss", "puzzle", "alpha", "alpha_schedule",
)  # fmt: skip
IN_STEP = ("dihedral_crop", "none")  # what changes an image and its label image alike


def add_flags(parser: argparse.ArgumentParser) -> None:
    """train.py's flags for these networks; defaults of None come from `defaults`."""
    add = parser.add_argument
    add("--cache_dir", help="pooled_<timm>, --cell nucleus: segment.py's --cache_dir")
    add("--crop_dir", help="duo_<timm>: segment.py's --crop_dir")
    add("--cells_per_image", type=int, help="bag_, duo_<timm>: how many cells of an image make a bag; default: 16, 3")
    add("--pool", help=f"bag_, pooled_, duo_<timm>: how cells make an image's answer: {', '.join(POOLS)}")
    add("--cell_loss", type=float, help="bag_, pooled_, duo_<timm>: the weight of the single cells' loss")
    add("--image_loss", type=float, help="pooled_, duo_<timm>: the weight of the whole image's loss")
    add("--puzzle", type=int, choices=[0, 1], default=0, help="1: PuzzleCAM, with --arch class_<timm>_cam")
    add("--alpha", type=float, help="--puzzle 1: the weight of the reconstruction loss")
    add("--alpha_schedule", type=float, help="--puzzle 1: the share of the epochs over which --alpha is reached")


def defaults(arch: str) -> dict:
    """The published settings: bags of 16 cells (2nd place), 3 beside the image (1st place), PuzzleCAM's alpha."""
    most = 3 if wrapper_of(arch) is DuoBranch else 16
    return {
        "cells_per_image": most, "pool": "max", "cell_loss": 0.1, "image_loss": 1.0, "alpha": 4.0,
        "alpha_schedule": 0.5,
    }  # fmt: skip


def check(args: argparse.Namespace, competition: Competition) -> None:
    """Refuse flags that contradict these networks."""
    kind = wrapper_of(args.arch)
    if args.puzzle and kind is not PuzzleCAM:
        raise UserError(f"--puzzle 1 needs the activation maps of --arch class_<timm>_cam, not {args.arch}")
    if not 0 <= args.alpha_schedule <= 1:
        raise UserError(f"--alpha_schedule {args.alpha_schedule} must be a share of the epochs, from 0 to 1")
    if args.cell == "nucleus" and args.cache_dir is None:
        raise UserError("--cell nucleus needs --cache_dir, where segment.py wrote the label images of nuclei")
    if args.cell == "nucleus" and args.augment not in IN_STEP:
        raise UserError(f"--augment {args.augment} changes colours; {' and '.join(IN_STEP)} are for nuclei")
    if not issubclass(kind, BagOfCells):
        return
    if (args.cell == "image") == (kind is BagOfCells):
        raise UserError(f"--arch {args.arch} does not go with --cell {args.cell}")
    for wanted, name in ((MaskPooled, "cache_dir"), (DuoBranch, "crop_dir")):
        if kind is wanted and getattr(args, name) is None:
            raise UserError(f"--arch {args.arch} needs --{name}")
    if competition.CELL_LABELS:
        raise UserError(f"--arch {args.arch} is for labels of whole images; in {args.competition} cells have their own")
    if args.pool not in POOLS:
        raise UserError(f"--pool {args.pool} is not known; choose from: {', '.join(POOLS)}")
    if args.mixup or args.cutmix:
        raise UserError(f"--arch {args.arch} sees an image and its cells, which --mixup and --cutmix cannot mix")
    if args.cells_per_image < 1:
        raise UserError(f"--cells_per_image {args.cells_per_image} must be at least 1")
    if kind is MaskPooled and args.augment not in IN_STEP:
        raise UserError(f"--augment {args.augment} leaves masks behind; {' and '.join(IN_STEP)} take them along")


def gather_cells(samples: Samples, args: argparse.Namespace, **opened) -> Samples | LabelledImages | Bags:
    """The samples as --arch needs them; opened: with what `open_samples` made them, for those that need crops besides.

    UserError when an image's masks or crops are not there.
    """
    kind = wrapper_of(args.arch)
    if kind is MaskPooled:
        return with_labels(samples, args.cache_dir, args.dataset)
    if kind is DuoBranch:
        cells = open_samples(**opened | {"kind": "cell", "root": args.crop_dir, "flag": "--crop_dir"})
        return bags_of(cells, args.cells_per_image, samples)
    if args.cell == "nucleus":
        samples = nuclei_of(samples, args.cache_dir, args.dataset)
    return bags_of(samples, args.cells_per_image) if kind is BagOfCells else samples


def model_options(args: argparse.Namespace, count: int) -> dict:
    """What the class of `wrapper_of` is told besides network, criterion, mean and std; count: training samples."""
    kind = wrapper_of(args.arch)
    if kind is PuzzleCAM:
        gpus = distributed.get_world_size() if distributed.is_initialized() else 1
        batches = max((count if args.sample in (0, -1) else args.sample) // (args.batch_size * gpus), 1)
        ramp = round(args.alpha_schedule * args.epochs * batches)
        return {"puzzle": bool(args.puzzle), "alpha": args.alpha, "ramp": ramp}
    if issubclass(kind, BagOfCells):
        return {"pool": args.pool, "cell_loss": args.cell_loss, "image_loss": args.image_loss}
    return {}


def begin(model: Classifier) -> None:
    """Forget how far another run, whose weights a model starts from, had come."""
    if isinstance(model, PuzzleCAM):
        model.seen.zero_()
