"""Say which class each pixel of an image is of: the training of a network of class maps."""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from augment.maps import MAPS, canvas_in
from augment.scenes import fitted
from cells.images import image_folder
from cells.instances import class_map, map_instances
from common.errors import UserError, choose, some
from common.files import existing
from competitions import Competition
from engine.data import Batches, balanced_weights, batches_of, loader
from engine.maps import Maps
from engine.processes import gather
from engine.samples import read_fold
from engine.scenes import canvas_of
from engine.train import Task
from losses.segmentation import UNWEIGHTED, MapLoss
from metrics.dice import class_pixels, dice, frequency_weights, weighted_dice
from metrics.panoptic import image_quality
from models import build_detector
from tasks.detect import check_cells
from tasks.start import freeze, start_weights


def prepare(args: argparse.Namespace, competition: Competition, starts: bool, say: Callable[[str], None]) -> Task:
    """The network of the flags with its samples; judged by mPQ, the mean over the images of that of their classes."""
    train, valid, draw_weights = samples(args, competition)
    say(f"{len(train)} training and {len(valid)} validation images, fold {args.fold}")
    weights = np.ones(train.maps) if args.loss in UNWEIGHTED else map_weights(train)
    parts = "classes, the edges" if train.depths else "classes"
    say(f"weights of the {parts} and the background in the loss: {', '.join(f'{weight:.3f}' for weight in weights)}")
    model = network(args, competition, weights, starts, say)
    return Task(model, train, partial(validate, samples=valid, args=args, weights=weights), "mPQ", draw_weights)


def samples(args: argparse.Namespace, competition: Competition) -> tuple[Maps, Maps, np.ndarray | None]:
    """Training and validation images of the fold with their class maps; with --sample, how often each is drawn."""
    root = image_folder(args.root_dir, "--root_dir")
    cells = None
    existing(args.metadata, "--metadata")
    if not hasattr(competition, "read_masks"):
        cells = competition.read_cells(args.metadata, root=root)
        if (cells["PredictionString"] == "").any():
            raise UserError(f"--metadata {args.metadata} has boxes without masks, from which no class map can be made")
    change = choose(MAPS, args.augment, "--augment")
    common = {
        "competition": competition, "root": root, "cells": cells, "single": args.num_classes == 1, "seed": args.seed,
        "depths": bool(args.depths),
        "stretch": bool(args.stretch), "raw": bool(args.raw),
        "scale": args.img_size / args.tile if args.tile else 0.0, "diameter": args.diameter,
    }  # fmt: skip
    parts = read_fold(args.folds_dir, args.split_name, args.fold, competition, test_fold=args.test_fold)
    train, valid = (images["ID"].tolist() for images in parts)
    if cells is not None:
        check_cells(args, cells, train, valid)
    unread = [key for key in (*train, *valid) if not all(path.exists() for path in competition.image_files(root, key))]
    if unread:
        raise UserError(f"--root_dir {args.root_dir} lacks images of {args.split_name}: {some(unread)}")
    # As large as the images: what is filled up would change the statistics of those that a competition prepares.
    sizes = competition.image_sizes(root, [*train, *valid]) if cells is None else cells
    canvas = canvas_of(sizes, args.img_size)
    classes = competition.multi_hot(parts[0]["Label"])
    draw_weights = balanced_weights(classes, args.balance) if args.sample else None
    growing = partial(canvas_in, epochs=args.epochs, first=args.progressive, canvas=canvas)
    full = None if args.tile else partial(canvas_in, epochs=args.epochs, first=0, canvas=canvas)
    data = Maps(keys=train, change=change, canvas=growing, **common)
    return data, Maps(keys=valid, change=MAPS["none"], canvas=full, **common), draw_weights


def map_weights(samples: Maps) -> np.ndarray:
    """What the classes, with depths what these lack of 1, and the background weigh in the loss, by their pixels."""
    weights = frequency_weights(samples.pixels())
    return weights / weights.mean()


def network(
    args: argparse.Namespace, competition: Competition, weights: np.ndarray, starts: bool, say: Callable
) -> nn.Module:
    """The network of the flags; when the run `starts` (it does not go on), with the weights that it starts from."""
    torch.manual_seed(args.seed)
    model = build_detector(
        args.arch, args.num_classes + bool(args.depths), args.in_channels, competition.MEAN, competition.STD,
        criterion=MapLoss(weights, args.loss), checkpointing=bool(args.checkpointing),
    )  # fmt: skip
    if starts:
        start_weights(args, model, model, say)
    freeze(args, model)
    return model


@torch.no_grad()
def validate(
    fabric: Fabric, model: nn.Module, samples: Maps, args: argparse.Namespace, weights: np.ndarray
) -> dict[str, float]:
    """Scores of the validation images, in their own pixels, at their full size whatever the epoch: mPQ and bPQ, means
    over the images that have cells; Dice, the plain mean over the classes and the background, and that by the training
    weights; each class' PQ and Dice.
    """
    size = 1 if args.tile else args.batch_size  # images at one scale differ in size
    batches = Batches(np.arange(len(samples))[fabric.global_rank :: fabric.world_size], size)
    data = fabric.setup_dataloaders(loader(samples, batches, args.workers), use_distributed_sampler=False)
    model.eval()
    results = []
    for images, _, index in tqdm(batches_of(data), "validate", len(batches), leave=False):
        maps = model(images)["map"]
        if not torch.isfinite(maps).all():
            raise UserError("a class map of the validation images is not finite: begin anew with another --out_dir and "
                "--mixed_precision 0 or a lower --lr")  # fmt: skip
        truths = (samples.instances(samples.keys[i]) for i in index)
        results += [judge(probs, truth, samples.depths) for probs, truth in zip(maps, truths, strict=True)]
    results = gather(fabric, results)
    quality = np.array([own for own, _ in results])
    pixels = sum(own for _, own in results)
    own = np.delete(weights, -2) if samples.depths else weights
    names = ("cell",) if samples.single else samples.competition.CLASSES
    typed, area = mean_known(quality[:, 1:].T), dice(pixels)
    row = {
        "mPQ": float(np.nan_to_num(mean_known([mean_known(quality[:, 1:])])[0])),
        "bPQ": float(np.nan_to_num(mean_known(quality[:, :1].T)[0])),
        "Dice": float(np.nanmean(area)), "weighted_dice": weighted_dice(pixels, own),
    }  # fmt: skip
    if len(names) > 1:
        row |= {f"PQ {name}": float(value) for name, value in zip(names, typed, strict=True)}
        row |= {f"Dice {name}": float(value) for name, value in zip(names, area[:-1], strict=True)}
    return row


def judge(probs: torch.Tensor, truth: np.ndarray, depths: bool) -> tuple[np.ndarray, np.ndarray]:
    """The PQ of an image's cells of any class and of each class (1 + C,), NaN without true ones, and `class_pixels`.

    probs: class maps (C + 1, h, w) of the image on its canvas, with `depths` one more; truth: ids by class (H, W, C).
    """
    height, width = truth.shape[:2]
    rows, columns = fitted(height, width, tuple(probs.shape[1:]))
    seen = probs[None, :, :rows, :columns].float()
    maps = functional.interpolate(seen, (height, width), mode="bilinear", antialias=True)[0].cpu().numpy()
    background = truth.shape[2]
    labels, classes = map_instances(maps, depths)
    owner = np.append(background, classes)[labels]
    found = np.where(owner[..., None] == np.arange(background), labels[..., None], 0)
    seen = owner if depths else maps.argmax(0)
    return image_quality(truth, found), class_pixels(class_map(truth), seen, background + 1)


def mean_known(rows: np.ndarray) -> np.ndarray:
    """The mean of each row without NaN; NaN where there is nothing else."""
    return np.array([row[~np.isnan(row)].mean() if (~np.isnan(row)).any() else np.nan for row in np.asarray(rows)])
