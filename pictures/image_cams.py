"""The mode `cams`: where a model of whole images sees the classes that it holds likeliest."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import competitions
from cells.crops import resize
from cells.store import read_image_png
from cells.table import match_rows
from common.errors import UserError
from common.files import existing, safe_name
from common.say import say
from competitions import Competition
from pictures.drawing import GREY, RIGHT, WRONG, Line
from pictures.marks import confidence
from pictures.output import save
from pictures.sheet import grid, tile
from pictures.tiles import cell_views, heated, true_text

COLUMNS = 6


def image_cams(args: argparse.Namespace) -> None:
    """A picture an image: the image, then a map for each of its likeliest classes."""
    from pictures.cams import ImageModel  # imports torch, seconds that the other pictures need not wait

    competition = competitions.get(args.competition, args.classes)
    model = ImageModel(args.checkpoint, "--checkpoint", competition)
    folder = existing(args.img_dir, "--img_dir")
    images = args.images or sorted(path.stem for path in folder.glob("[!.]*.png"))[: args.limit]
    if not images:
        raise UserError(f"--img_dir {folder} has no images; segment.py's --img_dir and in it the dataset is right")
    truth = [None] * len(images) if args.truth is None else true_classes(args.truth, images, competition)
    for image_id, labels in zip(images, truth, strict=True):
        path = folder / f"{safe_name(image_id, '--images')}.png"
        image = read_image_png(path)
        if image.shape != (len(image), len(image), len(competition.CHANNELS)):
            raise UserError(f"{path} is no square of {len(competition.CHANNELS)} channels; segment.py's --img_dir and "
                "in it the dataset is right")  # fmt: skip
        probs = model.probabilities(image)
        top = np.argsort(-probs, kind="stable")[: args.top]
        views = cell_views(resize(image, args.size))
        tiles = [tile(view, [Line("")]) for view in views]
        for index in top:
            frame = GREY if labels is None else RIGHT if labels[index] else WRONG
            line = Line(f"{confidence(probs[index])}  {competition.SHORT_NAMES[index]}", frame)
            tiles.append(tile(heated(views[-1], model.maps([image], index)[0]), [line], frame))
        title = [Line(image_id)] + ([] if labels is None else [Line(true_text(labels, competition.SHORT_NAMES), GREY)])
        save(Path(args.out_path) / f"cams_{image_id}.png", grid(tiles, COLUMNS, title))
    say(f"{args.out_path}: where {args.checkpoint} looks in {len(images)} images")


def true_classes(path: str, images: Sequence[str], competition: Competition) -> np.ndarray:
    """The true classes of images by train.csv, (N, C) bool."""
    labels = competition.read_labels(existing(path, "--truth"))
    rows = match_rows(pd.DataFrame({"ID": images}), labels, ["ID"], path, exact=False)
    return competition.multi_hot(labels["Label"])[rows] > 0
