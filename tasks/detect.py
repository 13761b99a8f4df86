"""Find cells as boxes, or boxes with masks, in whole images: the training of a finder."""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from torch import nn
from tqdm import tqdm

from augment.scenes import SCENES
from cells.images import image_folder
from common.errors import UserError, choose, some
from competitions import Competition
from engine.data import Batches, batches_of, loader
from engine.processes import gather
from engine.samples import read_fold
from engine.scenes import BOX, Scenes, canvas_of, of_side, to_pixels
from engine.train import Task
from metrics.box_map import ap_table
from models import build_detector, finds_masks
from tasks.instances import image_pairs, instance_scores
from tasks.start import freeze, start_weights


def prepare(args: argparse.Namespace, competition: Competition, starts: bool, say: Callable[[str], None]) -> Task:
    """The detector of the flags with its samples; judged by COCO's mean AP over the classes it tells apart, or by the
    mean AP of instances where it finds masks.
    """
    train, valid = samples(args, competition)
    say(f"{len(train)} training and {len(valid)} validation images with {len(valid.cells)} cells, fold {args.fold}")
    model = network(args, competition, starts, say)
    return Task(model, train, partial(validate, samples=valid, args=args, competition=competition), "mAP")


def samples(args: argparse.Namespace, competition: Competition) -> tuple[Scenes, Scenes]:
    """Training and validation images of the fold with their labelled cells."""
    root = image_folder(args.root_dir, "--root_dir")
    cells = without_background(competition.read_cells(args.metadata, root=root), competition)
    canvas = canvas_of(cells, args.img_size)
    parts = []
    # A table of cells alone (hpa) does not say which images have none.
    known = set(competition.read_metadata(args.metadata)["ID"]) if competition.CELL_LABELS else None
    for images in read_fold(args.folds_dir, args.split_name, args.fold, competition, test_fold=args.test_fold):
        missing = sorted(set(images["ID"]) - known) if known is not None else []
        if missing:
            raise UserError(f"--metadata {args.metadata} lacks images of {args.split_name}: {some(missing)}")
        parts.append((images["ID"].tolist(), cells[cells["ImageID"].isin(images["ID"])].reset_index(drop=True)))
    common = {
        "competition": competition, "root": root, "canvas": canvas, "single": args.num_classes == 1,
        "keep_size": competition.BOX_SIZE is not None, "masks": finds_masks(args.arch), "seed": args.seed,
    }  # fmt: skip
    (train_keys, train_cells), (valid_keys, valid_cells) = parts
    check_cells(args, cells, train_keys, valid_keys)
    change = choose(SCENES, args.augment, "--augment")
    train = Scenes(keys=train_keys, cells=train_cells, change=change, mosaic_epochs=args.mosaic_epochs, **common)
    return train, Scenes(keys=valid_keys, cells=valid_cells, change=SCENES["none"], **common)


def check_cells(args: argparse.Namespace, cells: pd.DataFrame, train: list[str], valid: list[str]) -> None:
    """UserError when the images of a part of the split have no cell in the table: it is that of other images."""
    for what, keys in (("training", train), ("validation", valid)):
        if not keys:
            raise UserError(f"--split_name {args.split_name} leaves no {what} image with --fold {args.fold}")
        if not cells["ImageID"].isin(keys).any():
            raise UserError(
                f"--metadata {args.metadata} has no cell of the {len(keys)} {what} images of {args.split_name}: "
                f"{some(keys)}"
            )


def without_background(cells: pd.DataFrame, competition: Competition) -> pd.DataFrame:
    """The cells without those of the class Background, places that show none, where that is one of the classes."""
    name = getattr(competition, "BACKGROUND", None)
    if name not in competition.CLASSES:
        return cells
    return cells[cells["Label"] != str(competition.CLASSES.index(name))].reset_index(drop=True)


def network(args: argparse.Namespace, competition: Competition, starts: bool, say: Callable) -> nn.Module:
    """The detector of the flags; when the run `starts` (it does not go on), with the weights that it starts from."""
    torch.manual_seed(args.seed)
    options = detector_options(args.arch, args.img_size, competition)
    model = build_detector(args.arch, args.num_classes, args.in_channels, competition.MEAN, competition.STD, **options)
    if starts:
        start_weights(args, model, model, say)
    freeze(args, model)
    return model


def detector_options(arch: str, img_size: int, competition: Competition) -> dict:
    """What a network is told of the competition: the side of its boxes, in input pixels, where all have the same; how
    many cells an image may have, where it must choose whose masks to look at.
    """
    if finds_masks(arch):
        return {"most": competition.MAX_DETECTIONS}
    if competition.BOX_SIZE is None or not arch.startswith("centernet"):
        return {}
    return {"box_size": competition.BOX_SIZE * img_size / competition.IMAGE_SIZE}


@torch.no_grad()
def validate(
    fabric: Fabric, model: nn.Module, samples: Scenes, args: argparse.Namespace, competition: Competition
) -> dict[str, float]:
    """mAP and AP50 of the finds in the validation images, in the images' own pixels: COCO's of boxes, or the instances'
    of masks (see tasks.instances).
    """
    batches = Batches(np.arange(len(samples))[fabric.global_rank :: fabric.world_size], args.batch_size)
    data = fabric.setup_dataloaders(loader(samples, batches, args.workers), use_distributed_sampler=False)
    model.eval()
    found = []
    for images, _, index in tqdm(batches_of(data), "validate", len(batches), leave=False):
        finds = [(int(i), arrays(one)) for i, one in zip(index, model(images), strict=True)]
        found += [(i, image_pairs(samples, i, one)) for i, one in finds] if samples.masks else finds
    finds = dict(gather(fabric, found))
    if samples.masks:
        return instance_scores(samples, finds)
    classes = ("cell",) if samples.single else competition.CLASSES
    truth = samples.cells.assign(**{"class": 0 if samples.single else samples.cells["Label"].astype(np.int64)})
    table = ap_table(classes, truth, found_table(samples, finds), competition.MAX_DETECTIONS)
    *own, mean = table.itertuples(index=False)
    return {"mAP": mean.AP, "AP50": mean.AP50, **({f"AP {row.Class}": row.AP for row in own} if len(own) > 1 else {})}


def found_table(samples: Scenes, finds: dict[int, dict[str, np.ndarray]]) -> pd.DataFrame:
    """Finds by index of their image as a table `ImageID,class,x1,y1,x2,y2,score` in the images' own pixels."""
    parts = []
    for index, one in sorted(finds.items()):
        boxes = to_pixels(one["boxes"], samples.shape(samples.keys[index]), samples.canvas)
        boxes = of_side(boxes, samples.competition.BOX_SIZE)
        own = pd.DataFrame(boxes, columns=BOX).assign(ImageID=samples.keys[index], score=one["scores"])
        parts.append(own.assign(**{"class": one["labels"].astype(np.int64)}))
    return pd.concat(parts, ignore_index=True)


def arrays(found: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """A detector's finds in one image as arrays: boxes (m, 4), scores (m,), labels (m,), and masks if it finds them."""
    return {name: values.float().cpu().numpy() for name, values in found.items()}
