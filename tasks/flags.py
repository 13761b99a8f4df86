"""Flags of train.py: which kind of network heeds which, what those not given are, and which go together."""

import argparse

from augment import TRAIN
from augment.maps import MAPS
from augment.scenes import SCENES
from common.errors import UserError, at_least, choose, some
from competitions import Competition
from engine.optimizers import OPTIMIZERS
from engine.schedules import SCHEDULERS, SHAPES
from engine.settings import resolve
from losses import LOSSES
from losses.segmentation import MAP_LOSSES
from models import finds_masks, task_of
from tasks import weak_labels

# What a flag is when neither the user nor the competition says so.
DEFAULTS = {
    "optimizer": "Adam", "weight_decay": 0.0, "backbone_lr": 1.0, "warmup_epochs": 0.0, "final_lr": 0.0,
    "clipnorm": 0.0, "ema": 0.0, "patience": 0, "mixup": 0.0, "cutmix": 0.0, "mix_share": 0.5, "label_smoothing": 0.0,
    "swa_start": 0, "swa_lr": 0.1, "swa_anneal": 10.0, "progressive": 0,
    "depths": 0, "tile": 0, "diameter": 0.0, "stretch": 0, "raw": 0, "freeze_norms": 0,
    "sample": 0, "balance": 1.0, "skip_nonfinite": 0, "train_blocks": 0, "drop_rate": 0.0, "mosaic_epochs": 0,
    "augment": "none", "loss": "BCE",
}  # fmt: skip

FINDERS = {
    "optimizer": "AdamW", "weight_decay": 1e-4, "scheduler": "onecycle", "lr": 3e-4, "epochs": 20, "batch_size": 4,
    "effective_batch": 4, "clipnorm": 1.0,
}  # fmt: skip

KINDS = {"classify": "classifiers", "detect": "detectors of boxes or masks", "segment": "networks of class maps"}
HEEDED = {  # flags that only these kinds of network heed; given for another they are refused
    ("classify",): (
        "img_path", "crop_size", "cell", "dataset", "external", "external_groups", "soft_labels", "pseudo_labels",
        "labelmask", "label_smoothing", "drop_rate", "cutmix", *weak_labels.FLAGS,
    ),
    ("classify", "segment"): ("loss", "sample", "balance", "mixup", "mix_share"),
    ("segment",): ("progressive", "depths", "tile", "diameter", "stretch", "raw", "checkpointing"),
    ("detect", "segment"): ("metadata", "root_dir"),
    ("detect",): ("mosaic_epochs",),
}  # fmt: skip
SHARES = ("ema", "label_smoothing", "balance", "mix_share")
BESIDE = {  # flags that do nothing where another one is off
    "swa_lr": ("swa_start",), "swa_anneal": ("swa_start",), "balance": ("sample",),
    "diameter": ("tile",), "mix_share": ("mixup", "cutmix"), "external_groups": ("external",), "preload": ("resume",),
}  # fmt: skip


def settle(args: argparse.Namespace, given: set[str], competition: Competition) -> None:
    """Fill in, in place, what is not given, and check all of it. given: the flags that the user has switched on."""
    if args.batch_size and not args.effective_batch:
        args.effective_batch = args.batch_size
    defaults = defaults_of(args, competition)
    check_heeded(args, given)
    common = {**DEFAULTS, **weak_labels.defaults(args.arch), "num_classes": len(competition.CLASSES)}
    if task_of(args.arch) == "segment":
        common["loss"] = "DiceFocalBoundary"
    resolve(args, common | defaults)
    check_beside(args, given)
    check(args, competition)
    weak_labels.check(args, competition)


def defaults_of(args: argparse.Namespace, competition: Competition) -> dict:
    """The competition's settings for the kind of network that --arch names; without the flag for its first kind. A
    finder that it has no settings for gets plain ones.
    """
    kinds = competition.TRAIN_DEFAULTS
    task = task_of(args.arch) if args.arch else next(iter(kinds))
    size = {"in_channels": len(competition.CHANNELS), "img_size": 512}
    others = {task: {**FINDERS, **size} for task in ("detect", "segment")}
    own = choose({**others, **kinds}, task, f"--arch {args.arch}: a network to {task} for {args.competition}:")
    args.arch = args.arch or own["arch"]
    if args.epochs and "mosaic_epochs" in own:  # as many epochs without mosaics at the end as published
        own = own | {"mosaic_epochs": max(0, args.epochs - (own["epochs"] - own["mosaic_epochs"]))}
    if finds_masks(args.arch):  # which mosaics have none of
        own = own | {"mosaic_epochs": 0}
    if args.epochs and "swa_start" in own:  # after the same share of them
        own = own | {"swa_start": max(1, round(own["swa_start"] / own["epochs"] * args.epochs))}
    return own


def check_heeded(args: argparse.Namespace, given: set[str]) -> None:
    """Refuse flags that a network of the kind of --arch does not heed. given: those that the user has switched on."""
    kind = task_of(args.arch)
    for kinds, names in HEEDED.items():
        others = [f"--{name}" for name in names if name in given]
        if others and kind not in kinds:
            raise UserError(f"{some(others)}: for {' and '.join(map(KINDS.get, kinds))}, not for --arch {args.arch}")


def check_beside(args: argparse.Namespace, given: set[str]) -> None:
    """Refuse flags that do nothing beside the others. given: those that the user has switched on."""
    for name, others in BESIDE.items():
        if name in given and not any(getattr(args, other) for other in others):
            raise UserError(f"--{name} does nothing without {' or '.join(f'--{other}' for other in others)}")
    if "final_lr" in given and args.scheduler != "cosine":
        raise UserError(f"--final_lr is for --scheduler cosine, not {args.scheduler}")
    warmed = [name for name in SHAPES if name != "onecycle"]  # which rises by itself
    if "warmup_epochs" in given and args.scheduler not in warmed:
        raise UserError(f"--warmup_epochs is for --scheduler {', '.join(warmed)}, not {args.scheduler}")


def check(args: argparse.Namespace, competition: Competition) -> None:
    """Refuse flags that contradict each other or the competition."""
    kind = task_of(args.arch)
    finder = kind != "classify"
    choose(MAP_LOSSES if kind == "segment" else LOSSES, args.loss, "--loss")
    choose({"classify": TRAIN, "detect": SCENES, "segment": MAPS}[kind], args.augment, "--augment")
    if args.progressive < 0 or args.progressive > args.img_size:
        raise UserError(f"--progressive {args.progressive} must be from 0 to --img_size {args.img_size}")
    if not 0 <= args.drop_rate < 1:
        raise UserError(f"--drop_rate {args.drop_rate} must be from 0 to below 1")
    if args.swa_start > args.epochs:
        raise UserError(f"--swa_start {args.swa_start} is beyond --epochs {args.epochs}: no epoch would be averaged")
    if args.swa_start and not args.lr:
        raise UserError("--swa_start needs --lr, the highest learning rate")
    choose(dict.fromkeys(SCHEDULERS), args.scheduler, "--scheduler")
    choose(OPTIMIZERS, args.optimizer, "--optimizer")
    if args.loss == "ArcFace" and not args.arch.endswith("_arcface"):
        raise UserError(f"--loss ArcFace needs the cosines of --arch class_<timm>_arcface, not of {args.arch}")
    if not finder and not competition.EXCLUSIVE and getattr(LOSSES[args.loss], "exclusive", False):
        raise UserError(f"--loss {args.loss} is for classes that exclude each other; in {args.competition} a cell may "
            "have several")  # fmt: skip
    if finder and args.num_classes != 1 and not competition.CELL_LABELS:
        raise UserError(f"--num_classes {args.num_classes}: {args.competition} does not tell cells apart; 1 is right")
    if args.num_classes != len(competition.CLASSES) and not (finder and args.num_classes == 1):
        raise UserError(f"--num_classes {args.num_classes}: {args.competition} has {len(competition.CLASSES)} classes")
    if args.in_channels != len(competition.CHANNELS):
        raise UserError(f"--in_channels {args.in_channels}: {args.competition} images have {len(competition.CHANNELS)}")
    at_least(args, {
        **dict.fromkeys(("epochs", "batch_size", "effective_batch", "img_size", "crop_size"), 1),
        **dict.fromkeys(("workers", "seed", "patience", "clipnorm", "skip_nonfinite", "swa_start", "mosaic_epochs",
                         "train_blocks", "lr", "weight_decay", "mixup", "cutmix", "warmup_epochs", "tile", "diameter",
                         "backbone_lr", "final_lr", "swa_lr", "swa_anneal", "save_minutes", "cell_loss", "image_loss",
                         "alpha", *SHARES), 0),
    })  # fmt: skip
    for name in SHARES:
        if getattr(args, name) > 1:
            raise UserError(f"--{name} {getattr(args, name)} must be from 0 to 1")
    if args.split_name is None:
        raise UserError(f"--split_name is missing: {args.competition} has no published one for --arch {args.arch}")
    if args.mosaic_epochs and competition.BOX_SIZE is not None:
        raise UserError(f"--mosaic_epochs is for cells of any size; those of {args.competition} have one")
    if args.mosaic_epochs and finds_masks(args.arch):
        raise UserError(f"--mosaic_epochs is not for --arch {args.arch}: mosaics have no masks")
    if finder and args.img_size % 32:
        raise UserError(f"--img_size {args.img_size} must be a multiple of 32 for --arch {args.arch}")
    if not finder and args.crop_size > args.img_size:
        raise UserError(f"--crop_size {args.crop_size} must not exceed --img_size {args.img_size}")
    if args.lr == 0:
        raise UserError(f"--lr {args.lr} must be above 0")
    if args.scheduler in SHAPES and not args.lr:
        raise UserError(f"--scheduler {args.scheduler} needs --lr, the highest learning rate")
    if finder and args.preload == "bestfitting":
        raise UserError(f"--preload bestfitting is for classifiers, and --arch {args.arch} finds cells; self is right")
    if args.sample < -1:
        raise UserError(f"--sample {args.sample} must be -1, 0 or a number of samples")
    for name in ("metadata", "root_dir") if finder else ("img_path",):
        if getattr(args, name) is None:
            raise UserError(f"--arch {args.arch} needs --{name}")
