"""Classify images or cells that segment.py wrote, by the labels of their image or by their own."""

import argparse
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from augment import TRAIN
from augment.crops import whole
from common.errors import UserError, first_line, some
from competitions import Competition
from engine.data import Batches, Samples, balanced_weights, batches_of, loader
from engine.external import add_external, add_pseudo
from engine.image_cells import Bags, LabelledImages
from engine.processes import gather
from engine.samples import open_samples, read_fold, split_key
from engine.targets import apply_targets
from engine.train import Task
from losses import build_loss
from metrics.classification import average_precision, macro_f1
from models import Classifier, build, wrapper_of
from models.bestfitting import load_bestfitting, read_bestfitting
from tasks import weak_labels
from tasks.start import freeze, start_weights


def prepare(args: argparse.Namespace, competition: Competition, starts: bool, say: Callable[[str], None]) -> Task:
    """The classifier of the flags with its samples; judged by mean PR-AUC, or by macro-F1 when classes exclude."""
    train, valid = samples(args, competition, say)
    what = "bags of cells" if isinstance(train, Bags) else {"nucleus": "nuclei"}.get(args.cell, f"{args.cell}s")
    say(f"{len(train)} training and {len(valid)} validation {what}, fold {args.fold}")
    model = network(args, competition, train.targets, starts, say)
    norms = any(isinstance(layer, nn.BatchNorm1d) for layer in model.modules()) and not isinstance(train, Bags)
    if norms and min(args.batch_size, len(train) if args.sample in (0, -1) else args.sample) < 2:
        raise UserError(f"--arch {args.arch} compares the samples of a batch (batch norm): --batch_size, --sample and "
            "the training samples must be at least 2")  # fmt: skip
    exclusive = getattr(model.criterion, "exclusive", False)
    judge = partial(validate, samples=valid, args=args, classes=competition.CLASSES, exclusive=exclusive)
    weights = balanced_weights(train.targets, args.balance) if args.sample else None
    return Task(model, train, judge, "macro_f1" if exclusive else "pr_auc", weights)


def samples(args: argparse.Namespace, competition: Competition, say: Callable[[str], None]) -> tuple[Samples, Samples]:
    """Training and validation samples of the fold; says how many of the images have none."""
    own = args.cell != "image" and competition.CELL_LABELS
    every = replace(competition, nuclei=False)  # the tables have the labels of all classes
    split = args.folds_dir, args.split_name
    train_table, valid_table = read_fold(*split, args.fold, every, own, args.test_fold)
    apart = [valid_table] if args.test_fold is None else [valid_table, read_fold(*split, args.test_fold, every, own)[1]]
    held_out = pd.concat(apart)["ImageID" if own else "ID"]
    external: set[str] = set()
    if args.external:
        if own:
            raise UserError(f"--external: single cells of {competition.name} have labels of their own, which it lacks")
        before = set(train_table["ID"])
        train_table = add_external(train_table, held_out, args.external, every, args.external_groups)
        external = set(train_table["ID"]) - before
    if args.pseudo_labels:
        train_table = add_pseudo(train_table, held_out, args.pseudo_labels, competition.CLASSES)
    common = {
        "kind": "image" if args.cell == "image" else "cell",
        "root": args.img_path, "datasets": args.dataset, "flag": "--img_path",
        "targets": competition.multi_hot, "img_size": args.img_size, "crop_size": args.crop_size, "seed": args.seed,
    }  # fmt: skip
    train = open_all(args, images=train_table, name="training", augment=TRAIN[args.augment], **common)
    valid = open_all(args, images=valid_table, name="validation", augment=whole, **common)
    missing = tell_missing(args, train_table, train, "training", say)
    tell_missing(args, valid_table, valid, "validation", say)
    if external and external <= missing:
        raise UserError(f"--img_path {args.img_path} has none of the images of --external {args.external} in "
            f"--dataset {args.dataset}; segment.py writes them, --dataset train,external names both")  # fmt: skip
    apply_targets(train, valid, args.soft_labels, args.pseudo_labels, args.labelmask, competition.CLASSES)
    return train, valid


def tell_missing(
    args: argparse.Namespace, table: pd.DataFrame, samples: Samples | LabelledImages | Bags, name: str, say: Callable
) -> set[str]:
    """The images of a table of images or cells that have no sample; says how many, of what the images are for."""
    images = set(table["ImageID" if "ImageID" in table else "ID"])
    whole = args.cell == "image" or isinstance(samples, Bags)
    missing = images.difference(samples.keys if whole else (split_key(key)[0] for key in samples.keys))
    if missing:
        say(f"{len(missing)} of {len(images)} {name} images have nothing in --img_path: {some(sorted(missing))}")
    return missing


def open_all(args: argparse.Namespace, **options) -> Samples | LabelledImages | Bags:
    """Samples as --arch needs them: images or cells alone, or images with their cells. options: of `open_samples`."""
    return weak_labels.gather_cells(open_samples(**options), args, **options)


def network(
    args: argparse.Namespace, competition: Competition, targets: np.ndarray, starts: bool, say: Callable[[str], None]
) -> Classifier:
    """The network of the flags; when the run `starts` (it does not go on), with the weights that it starts from."""
    torch.manual_seed(args.seed)
    dropout = {"drop_rate": args.drop_rate} if args.drop_rate else {}  # timm's networks without such a head refuse it
    net = build(args.arch, args.num_classes, args.in_channels, args.crop_size, **dropout)
    check_fit(net, args)
    criterion = build_loss(args.loss, class_weights(competition, targets), args.label_smoothing)
    options = weak_labels.model_options(args, len(targets))
    model = wrapper_of(args.arch)(net, criterion, competition.MEAN, competition.STD, **options)
    if starts and args.preload == "bestfitting":
        fresh = load_bestfitting(net, read_bestfitting(args.resume, "--resume"), f"--resume {args.resume}")
        say(f"--preload bestfitting: layers with a random start: {', '.join(fresh) or 'none'}")
    elif starts:
        start_weights(args, model, net, say)
        weak_labels.begin(model)
    freeze(args, net)
    return model


def check_fit(net: nn.Module, args: argparse.Namespace) -> None:
    """UserError where images of --crop_size are too small for a network, or its last maps are not what a head needs."""
    images = torch.zeros(1, args.in_channels, args.crop_size, args.crop_size)
    try:
        with torch.no_grad():
            net.eval()(images)
    except (AssertionError, AttributeError, RuntimeError, ValueError) as error:
        raise UserError(f"--arch {args.arch} does not go with --crop_size {args.crop_size} and --in_channels "
            f"{args.in_channels}: {first_line(error)}") from error  # fmt: skip
    net.train()


def class_weights(competition: Competition, targets: np.ndarray) -> np.ndarray:
    """How much a class counts: as the competition says, else by how rare it is in the training targets, mean 1."""
    if competition.CLASS_WEIGHTS is not None:
        return np.asarray(competition.CLASS_WEIGHTS, np.float32)
    counts = np.maximum(np.nansum(targets, axis=0), 1)
    return (1 / counts / np.mean(1 / counts)).astype(np.float32)


@torch.no_grad()
def validate(
    fabric: Fabric, model: nn.Module, samples: Samples, args: argparse.Namespace, classes: tuple[str, ...],
    exclusive: bool,
) -> dict[str, float]:  # fmt: skip
    """Mean loss and scores of the validation samples: mean PR-AUC and each class's, accuracy and macro-F1.

    With bags of cells `pr_auc_cells` besides, of the highest probabilities of each image's cells.
    """
    batches = Batches(np.arange(len(samples))[fabric.global_rank :: fabric.world_size], args.batch_size)
    data = fabric.setup_dataloaders(loader(samples, batches, args.workers), use_distributed_sampler=False)
    model.eval()
    results = []
    for images, targets, index in tqdm(batches_of(data), "validate", len(batches), leave=False):
        out = model(images, targets)
        probs = {name: out[name].float().cpu().numpy() for name in ("probs", "cell_max") if name in out}
        results.append((index.cpu().numpy(), probs, float(out["loss"]) * len(index)))
    results = gather(fabric, results)
    order = np.argsort(np.concatenate([index for index, _, _ in results]))
    probs = {name: np.concatenate([probs[name] for _, probs, _ in results])[order] for name in results[0][1]}
    row = {"valid_loss": sum(loss for _, _, loss in results) / len(samples)}
    if "cell_max" in probs:
        row["pr_auc_cells"] = scores(probs["cell_max"], samples.targets, classes, exclusive)["pr_auc"]
    return row | scores(probs["probs"], samples.targets, classes, exclusive)


def scores(probs: np.ndarray, targets: np.ndarray, classes: tuple[str, ...], exclusive: bool) -> dict[str, float]:
    """The scores of probabilities (N, K) against targets (N, K), NaN = unknown."""
    own = average_precision(probs, targets)
    known = own[np.isfinite(own)]
    row = {"pr_auc": float(known.mean()) if len(known) else 0.0}
    if exclusive:
        labelled = np.isfinite(targets).all(1) & (targets > 0).any(1)
        truth, found = targets[labelled].argmax(1), probs[labelled].argmax(1)
        right = float((truth == found).mean()) if len(truth) else 0.0
        row |= {"accuracy": right, "macro_f1": macro_f1(truth, found, len(classes))}
    return row | {f"AP {name}": float(score) for name, score in zip(classes, own, strict=True)}
