"""The mode `analysis`: what a labelled table holds, before anything is trained on it."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from pycocotools import mask as coco

import competitions
from cells.boxes import areas
from cells.masks import decode_rles
from cells.table import BOX, write_table
from common.errors import UserError
from common.figures import save_figure
from common.say import say

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIZES = {"width": "width (pixels)", "height": "height (pixels)", "area": "area (pixels)"}
BINS = 41  # odd, so that cells of one size, as riva's, fall into the middle of one
FEW_BINS = 25  # of what an image has
LISTED = 5  # sizes of images
TALL = 0.9  # of the space between two classes: the height of a histogram
UNEVEN = 20  # the largest class is so many times the smallest: counts are drawn on a logarithmic scale


def analysis(args: argparse.Namespace) -> None:
    """Counts, imbalance and sizes of the labelled cells, or of the images' labels where cells have none."""
    competition = competitions.get(args.competition, args.classes)
    if competition.CELL_LABELS:
        cells = with_sizes(competition.read_cells(args.metadata, root=args.root_dir))
        hot = competition.multi_hot(cells["Label"]) > 0
        images = competition.read_metadata(args.metadata)["ID"]
        table = class_table(competition.CLASSES, hot, cells["ImageID"], cells)
        per_image, what = cells["ImageID"].value_counts().reindex(images, fill_value=0).to_numpy(), "cells"
    else:
        if args.root_dir:
            raise UserError(f"--root_dir is for competitions whose cells have labels, not {args.competition}")
        labels = competition.read_labels(args.metadata)
        cells, images, hot = None, labels["ID"], competition.multi_hot(labels["Label"]) > 0
        table = class_table(competition.CLASSES, hot, images)
        per_image, what = hot.sum(axis=1), "labels"
    if not len(images) or not hot.any():
        raise UserError(f"{args.metadata} has no label to analyse")
    out = Path(args.out_path)
    write_table(table, out / "analysis.csv")
    save_figure(out / "analysis.png", draw(competition.SHORT_NAMES, table, per_image, what, cells, hot))
    say(table.to_string(index=False))
    spread = " / ".join(f"{value:g}" for value in np.quantile(per_image, (0, 0.5, 1)))
    say(f"{len(images)} images, {per_image.sum()} {what}; an image has {spread} (least / median / most)")
    if cells is not None:
        say(f"sizes of images: {', '.join(size_texts(image_sizes(cells))) or 'not known, give --root_dir'}")
    say(f"{out}: analysis.png, analysis.csv")


def with_sizes(cells: pd.DataFrame) -> pd.DataFrame:
    """The cells with width, height and area in pixels: the mask's area where there is one, else the box's."""
    boxes = cells[BOX].to_numpy(float)
    area = areas(boxes)
    for rows in cells[cells["PredictionString"] != ""].groupby("ImageID").indices.values():
        size = cells[["ImageHeight", "ImageWidth"]].iloc[rows[0]].tolist()
        area[rows] = coco.area(decode_rles(cells["PredictionString"].iloc[rows].tolist(), *size))
    return cells.assign(width=boxes[:, 2] - boxes[:, 0], height=boxes[:, 3] - boxes[:, 1], area=area)


def class_table(
    classes: Sequence[str], hot: np.ndarray, images: pd.Series, cells: pd.DataFrame | None = None
) -> pd.DataFrame:
    """A row a class: `Class,Count,Share,Imbalance,Images` and, of cells, the 5 %, 50 % and 95 % quantiles of their
    sizes.

    hot: the classes of each cell, or image, (N, C) bool; images: the image of each. Share: of all labels. Imbalance:
    how many times as frequent the most frequent class is; empty for a class that is not there.
    """
    counts = hot.sum(axis=0)
    imbalance = np.divide(counts.max(initial=0), counts, out=np.full(len(counts), np.nan), where=counts > 0)
    table = pd.DataFrame({
        "Class": list(classes), "Count": counts, "Share": (counts / max(counts.sum(), 1)).round(4),
        "Imbalance": imbalance.round(1), "Images": [images[own].nunique() for own in hot.T],
    })  # fmt: skip
    for name in SIZES if cells is not None else ():
        for share in (0.05, 0.5, 0.95):
            values = cells[name].to_numpy()
            table[f"{name} {share:.0%}"] = [np.quantile(values[own], share) if own.any() else np.nan for own in hot.T]
    return table


def image_sizes(cells: pd.DataFrame) -> pd.DataFrame:
    """The images' sizes as far as they are known: `ImageWidth,ImageHeight,n`, the most frequent first."""
    known = cells[cells["ImageWidth"] > 0].drop_duplicates("ImageID")
    sizes = known.groupby(["ImageWidth", "ImageHeight"]).size().reset_index(name="n")
    return sizes.sort_values("n", ascending=False, kind="stable", ignore_index=True)


def size_texts(sizes: pd.DataFrame) -> list[str]:
    """The most frequent sizes of images in words, and how many others there are."""
    texts = [f"{row.n} of {row.ImageWidth} x {row.ImageHeight}" for row in sizes[:LISTED].itertuples()]
    return texts + ([f"{len(sizes) - LISTED} more sizes"] if len(sizes) > LISTED else [])


def draw(
    names: Sequence[str], table: pd.DataFrame, per_image: np.ndarray, what: str, cells: pd.DataFrame | None,
    hot: np.ndarray,
) -> "Figure":  # fmt: skip
    """The analysis as a picture: counts, what an image has; and of cells the images' sizes and the cells' by class."""
    from matplotlib.figure import Figure  # a second to import, which the other pictures need not wait

    rows = 1 if cells is None else 2
    figure = Figure(figsize=(15, rows * max(4, 1.2 + 0.3 * len(names))), layout="constrained")
    axes = figure.subplots(rows, 3 if rows == 2 else 2, squeeze=False)
    draw_counts(axes[0, 0], names, table, what)
    width = int(per_image.max() - per_image.min()) // FEW_BINS + 1
    axes[0, 1].hist(per_image, np.arange(per_image.min(), per_image.max() + 2 * width, width) - 0.5, color="tab:gray")
    axes[0, 1].set(xlabel=f"{what} in an image", ylabel="images")
    axes[0, 1].yaxis.get_major_locator().set_params(integer=True)
    if cells is not None:
        draw_image_sizes(axes[0, 2], image_sizes(cells))
        for own, (name, label) in zip(axes[1], SIZES.items(), strict=True):
            ridges(own, names, [cells[name].to_numpy()[rows] for rows in hot.T], log=name == "area")
            own.set_xlabel(label)
    return figure


def draw_counts(axes: "Axes", names: Sequence[str], table: pd.DataFrame, what: str) -> None:
    """How many there are of each class, and how many times fewer than of the most frequent."""
    counts = table["Count"].to_numpy()
    bars = axes.barh(range(len(names)), counts, color=[f"C{index % 10}" for index in range(len(names))])
    texts = [f" {n}  (1 : {times:g})" if n else " none" for n, times in zip(counts, table["Imbalance"], strict=True)]
    axes.bar_label(bars, texts, fontsize=8)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    if counts.max() > UNEVEN * counts[counts > 0].min():
        axes.set_xscale("log")
    axes.margins(x=0.25)
    axes.set_xlabel(f"{what} (in brackets: how many of the most frequent class come to one)")


def draw_image_sizes(axes: "Axes", sizes: pd.DataFrame) -> None:
    """Width and height of the images, a larger dot for more of them."""
    if not len(sizes):
        axes.text(0.5, 0.5, "sizes of the images: not known\n(give --root_dir)", ha="center", va="center")
        axes.set_axis_off()
        return
    axes.scatter(sizes["ImageWidth"], sizes["ImageHeight"], 30 + 400 * sizes["n"] / sizes["n"].sum(), alpha=0.6)
    axes.text(0.04, 0.96, "\n".join(size_texts(sizes)), transform=axes.transAxes, va="top")
    axes.set(xlabel="image width (pixels)", ylabel="image height (pixels)")
    axes.set_xlim(0, 1.15 * sizes["ImageWidth"].max())
    axes.set_ylim(0, 1.15 * sizes["ImageHeight"].max())


def ridges(axes: "Axes", names: Sequence[str], groups: Sequence[np.ndarray], log: bool) -> None:
    """A histogram a class, one above the other, each as high as the others; the median as a line."""
    values = np.concatenate(groups)
    low, high = np.quantile(values, (0.001, 0.999))
    low, high = max(low, 1) / 1.05, max(high, 1) * 1.05
    edges = (np.geomspace if log else np.linspace)(low, high, BINS + 1)
    for index, own in enumerate(groups):
        if len(own):
            counts = np.histogram(np.clip(own, edges[0], edges[-1]), edges)[0]
            top = index - TALL * counts / counts.max()
            axes.fill_between(edges, index, np.append(top, top[-1]), step="post", color=f"C{index % 10}", alpha=0.7)
            axes.vlines(np.median(own), index - TALL, index, color="black", linewidth=1)
    if log:
        axes.set_xscale("log")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.8, -1.1)
    axes.grid(alpha=0.3, axis="x")
