"""Look at the data and at what the models make of it: four kinds of pictures.

    python visualize.py overlays --metadata DATA/sample_submission.csv --root_dir DATA/test \\
        --cell_meta_csv_path META/sample_submission_cell.csv --probabilities OUT/ensemble_x.csv --out_path PICS
    python visualize.py contact_sheet --cell_meta_csv_path META/sample_submission_cell.csv --crop_dir CROPS/test \\
        --probabilities OUT/ensemble_x.csv --truth DATA/truth.csv --out_path PICS
    python visualize.py misses --root_dir DATA/test --cell_meta_csv_path META/sample_submission_cell.csv \\
        --probabilities OUT/ensemble_x.csv --truth DATA/truth.csv --out_path PICS
    python visualize.py curves RESULTS/models/Cell_BCE/fold0 RESULTS/models/Image_Focal/fold0 --out_path PICS

overlays: `overlay_<ImageID>.png`, an image with its cells, their ids and top classes; dropped cells grey and dashed.
contact_sheet: `sheet_<class>.png`, the cells of highest probability of each class, in colour and the protein alone,
and with --checkpoint the class activation map of that model on the protein.
misses: `misses_wrong.png`, the cells most confident in a class that they do not have; `misses_overlooked.png`, the true
cells whose class got the least; `misses.csv`, all of them. curves: `curves.png`, the logs of several runs in one.

--submission may stand in place of --probabilities. --truth is a table of true cells (matched by mask) or train.csv.
Green text or frame: true; red: not; white or grey: not known.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pandas as pd

import competitions
from cells.crops import resize
from cells.masks import decode_mask
from cells.store import Store
from cells.table import read_cells, read_table, write_table
from common.errors import UserError, run, some
from common.files import atomic, existing, safe_name
from pictures.composite import composite, shrink, shrink_mask, stretch
from pictures.curves import draw_curves
from pictures.drawing import GREY, RIGHT, Line
from pictures.judging import Truth, describe, overlooked, probabilities, read_truth, submitted, wrong
from pictures.overlay import cell_mark, confidence, dropped_mark, legend, overlay
from pictures.sheet import grid
from pictures.tiles import ID_LETTERS, cell_tile, miss_tile, true_text

COLUMNS = {"contact_sheet": 5, "misses": 6}


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True, metavar="{" + ",".join(MODES) + "}")
    for name, (_, limit, size) in MODES.items():
        own = modes.add_parser(name, help="see above")
        own.add_argument("--out_path", required=True, help="folder to write the pictures to")
        if name == "curves":
            own.add_argument("logs", nargs="+", help="log.csv files of train.py, or their folders")
            own.add_argument("--names", nargs="+", help="what to call the runs; default: their folders")
            continue
        competitions.add_flags(own)
        own.add_argument("--cell_meta_csv_path", required=True, help="cells table")
        own.add_argument("--probabilities", help="probabilities table of cells or images")
        own.add_argument("--submission", help="a submission, in place of --probabilities")
        own.add_argument("--truth", required=name == "misses", help="table of true cells, or train.csv")
        own.add_argument("--limit", type=positive, default=limit, help=f"how many images or cells; default {limit}")
        own.add_argument("--size", type=positive, default=size, help=f"pixels of an image or cell; default {size}")
        if name == "contact_sheet":
            own.add_argument("--crop_dir", required=True, help="crop store of the cells: CROPS/<dataset>")
            own.add_argument("--checkpoint", help="a cell model of train.py: show where it sees the class, too")
        else:
            own.add_argument("--root_dir", required=True, help="folder of the images")
        if name == "overlays":
            own.add_argument("--metadata", required=True, help="train.csv or sample_submission.csv")
            own.add_argument("--images", nargs="+", metavar="ID", help="these images; default: the first ones")
    return parser


def positive(text: str) -> int:
    """A whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} must be 1 or more")
    return number


def main(argv: Sequence[str] | None = None) -> int | None:
    """Draw the pictures of one mode."""
    args = get_args_parser().parse_args(argv)
    return MODES[args.mode][0](args)


def read_opinion(args: argparse.Namespace, competition: ModuleType, cells: pd.DataFrame) -> tuple:
    """The cells that --probabilities or --submission holds and their probabilities, or all cells and None."""
    if args.probabilities and args.submission:
        raise UserError("give --probabilities or --submission, not both")
    if args.probabilities:
        cells, probs = probabilities(args.probabilities, cells, competition)
    elif args.submission:
        cells, probs = submitted(args.submission, cells, competition)
    elif args.mode == "overlays":
        return cells, None
    else:
        raise UserError(f"{args.mode} needs --probabilities or --submission")
    if not len(cells):
        raise UserError(f"{args.probabilities or args.submission} holds no image of {args.cell_meta_csv_path}")
    return cells, probs


def overlays(args: argparse.Namespace) -> int | None:
    """A picture an image; images that cannot be read are named at the end."""
    competition = competitions.get(args.competition, args.classes)
    images = competition.read_metadata(args.metadata)["ID"]
    every = read_cells(args.cell_meta_csv_path, dropped=True)
    keep = every["keep"] != 0 if "keep" in every else pd.Series(True, every.index)
    chosen = choose_images(args.images, images, args)
    cells, probs = read_opinion(args, competition, every[keep & every["ImageID"].isin(chosen)].reset_index(drop=True))
    truth = read_truth(args.truth, cells, competition).labels if args.truth else None
    dropped = every[~keep]
    failed = []
    for image_id in chosen:
        rows = np.flatnonzero(cells["ImageID"] == image_id)
        own = [None if table is None else table[rows] for table in (probs, truth)]
        try:
            image = competition.read_image(args.root_dir, image_id)
        except competition.ImageError as error:
            failed.append(str(error))
            continue
        picture = one_overlay(image, cells.iloc[rows], dropped[dropped["ImageID"] == image_id], *own, competition, args)
        save(Path(args.out_path) / f"overlay_{safe_name(image_id, 'ImageID')}.png", picture)
    say(f"{args.out_path}: {len(chosen) - len(failed)} overlays")
    if failed:
        say("not drawn: " + "; ".join(failed))
    return 1 if failed else None


def choose_images(wanted: Sequence[str] | None, images: pd.Series, args: argparse.Namespace) -> list[str]:
    """--images, or the first --limit of the metadata."""
    if not wanted:
        return images.iloc[: args.limit].tolist()
    unknown = [name for name in wanted if name not in set(images)]
    if unknown:
        raise UserError(f"--images {some(unknown)}: {args.metadata} has no such ID")
    return list(dict.fromkeys(wanted))


def one_overlay(
    image: np.ndarray, cells: pd.DataFrame, dropped: pd.DataFrame, probs: np.ndarray | None, labels: np.ndarray | None,
    competition: ModuleType, args: argparse.Namespace,
) -> np.ndarray:  # fmt: skip
    """The picture of one image: its cells with their probabilities and true classes, and the dropped cells."""
    shape = shrink(image, args.size).shape[:2]
    marks = []
    for row, (cell, mask) in enumerate(display_masks(cells, image.shape[:2], shape)):
        own = [None if table is None else table[row] for table in (probs, labels)]
        marks.append(cell_mark(mask, cell, competition.SHORT_NAMES, *own))
    marks += [dropped_mark(mask, cell) for cell, mask in display_masks(dropped, image.shape[:2], shape)]
    tops = [] if probs is None else probs.argmax(axis=1)
    title = (cells if len(cells) else dropped)["ImageID"].iloc[0] if len(cells) + len(dropped) else "no cells"
    lines = legend(title, len(cells), len(dropped), tops, competition.SHORT_NAMES)
    return overlay(image, marks, lines, competition.CHANNEL_NAMES, args.size)


def display_masks(cells: pd.DataFrame, full: Sequence[int], shape: Sequence[int]) -> list[tuple[int, np.ndarray]]:
    """CellID and mask of each cell at the display's (height, width); `full` is the image's."""
    masks = []
    for row in cells.itertuples():
        if (row.ImageHeight, row.ImageWidth) != tuple(full):
            raise UserError(
                f"{row.ImageID} has {full[1]} x {full[0]} pixels, but {row.ImageWidth} x {row.ImageHeight} in the "
                "cells table"
            )
        masks.append((row.CellID, shrink_mask(decode_mask(row.PredictionString, *full), shape)))
    return masks


def contact_sheet(args: argparse.Namespace) -> None:
    """A picture a class: its most probable cells, in falling order."""
    competition = competitions.get(args.competition, args.classes)
    cells, probs = read_opinion(args, competition, read_cells(args.cell_meta_csv_path))
    labels = read_truth(args.truth, cells, competition).labels if args.truth else None
    store = Store(existing(args.crop_dir, "--crop_dir"))
    model = None
    if args.checkpoint:
        from pictures.cams import CellModel  # imports torch, seconds that the other pictures need not wait

        model = CellModel(args.checkpoint, "--checkpoint", competition)
    for index, name in enumerate(competition.CLASSES):
        order = np.argsort(-probs[:, index], kind="stable")[: args.limit]
        keys = [(cells["ImageID"].iloc[row], int(cells["CellID"].iloc[row])) for row in order]
        crops = [store.read(*key, raw=True) for key in keys]
        heats = [None] * len(crops) if model is None else model.maps(crops, index)
        tiles = [
            cell_tile(resize(crop, args.size), key, probs[row, index], index, None if labels is None else labels[row],
                      competition.SHORT_NAMES, heat)
            for row, key, crop, heat in zip(order, keys, crops, heats, strict=True)
        ]  # fmt: skip
        title = [Line(name), Line(f"the {len(order)} cells of highest probability of {len(cells)}", GREY)]
        if labels is not None:
            title.append(Line(f"{labels[order, index].sum()} of them true, {labels[:, index].sum()} in all", GREY))
        path = Path(args.out_path) / f"sheet_{index:02d}_{slug(competition.SHORT_NAMES[index])}.png"
        save(path, grid(tiles, COLUMNS[args.mode], title))
    say(f"{args.out_path}: {len(competition.CLASSES)} contact sheets")


def misses(args: argparse.Namespace) -> None:
    """The most confident wrong cells and the true cells with the least confidence, as pictures and a table."""
    competition = competitions.get(args.competition, args.classes)
    cells, probs = read_opinion(args, competition, read_cells(args.cell_meta_csv_path))
    truth = read_truth(args.truth, cells, competition)
    tables = {"wrong": wrong(cells, probs, truth), "overlooked": overlooked(cells, probs, truth)}
    titles = {"wrong": "Most confident in a class that the cell does not have", "overlooked": "True, but overlooked"}
    parts = [describe(table, kind, cells, truth, competition.CLASSES) for kind, table in tables.items()]
    found = pd.concat([part for part in parts if len(part)] or parts[:1], ignore_index=True)
    write_table(found, Path(args.out_path) / "misses.csv")
    for kind, table in tables.items():
        if len(table):
            worst = found[found["Kind"] == kind].head(args.limit)
            tiles = miss_tiles(worst, cells, truth, competition, args)
            note = "white: the cell as found; green: the true cell" if truth.table is not None else "white: the cell"
            lines = [Line(titles[kind]), Line(f"{note}; the worst {len(tiles)} of {len(table)}", GREY)]
            save(Path(args.out_path) / f"misses_{kind}.png", grid(tiles, COLUMNS[args.mode], lines))
    say(f"{args.out_path}: the worst of {len(cells)} cells, in misses.csv all")


def miss_tiles(worst: pd.DataFrame, cells: pd.DataFrame, truth: Truth, competition: ModuleType,
               args: argparse.Namespace) -> list[np.ndarray]:  # fmt: skip
    """A tile for each row of misses.csv: the cell in its surroundings; each image is read once."""
    tiles = {}
    for image_id, group in worst.groupby("ImageID", sort=False):
        picture = composite(stretch(competition.read_image(args.root_dir, image_id)))
        for row in group.itertuples():
            found, true = (
                mask_of(table, (image_id, cell), picture.shape[:2]) if cell else None
                for table, cell in ((cells, row.CellID), (truth.table, row.TrueCellID))
            )
            tiles[row.Index] = miss_tile(picture, found, true, args.size, miss_lines(row, competition))
    return [tiles[index] for index in worst.index]


def mask_of(table: pd.DataFrame, key: tuple[str, int], shape: Sequence[int]) -> np.ndarray:
    """The mask of the cell of an (ImageID, CellID), for an image of `shape`."""
    row = table[(table["ImageID"] == key[0]) & (table["CellID"] == key[1])]
    return display_masks(row, shape, shape)[0][1]


def miss_lines(row: tuple, competition: ModuleType) -> list[Line]:
    """The caption of a row of misses.csv."""
    labels = np.zeros(len(competition.CLASSES), bool)
    labels[[int(part) for part in row.Label.split("|") if part]] = True
    name = competition.SHORT_NAMES[competition.CLASSES.index(row.Class)]
    cell = f"cell {row.CellID}, IoU {row.IoU:.2f}" if row.CellID else f"true cell {row.TrueCellID}"
    return [
        Line(f"{name} {confidence(row.Probability)}" if row.CellID else f"{name}: cell not found"),
        Line(true_text(labels, competition.SHORT_NAMES), RIGHT if labels.any() else GREY),
        Line(f"{row.ImageID[:ID_LETTERS]} {cell}", GREY),
    ]


def curves(args: argparse.Namespace) -> None:
    """The logs of several runs in one picture, and each one's best epoch on the screen."""
    paths = [path / "log.csv" if path.is_dir() else path for path in map(Path, args.logs)]
    names = args.names or run_names(paths)
    if len(names) != len(paths):
        raise UserError(f"--names has {len(names)} names for {len(paths)} logs")
    runs = {}
    for name, path in zip(names, paths, strict=True):
        if name in runs:
            raise UserError(f"two logs are called {name}; give each its own with --names")
        runs[name] = read_table(path, dict.fromkeys(("epoch", "train_loss", "valid_loss"), float))
    path = Path(args.out_path) / "curves.png"
    with atomic(path) as temporary:
        draw_curves(runs).savefig(temporary, dpi=100)
    say(f"{path}: {len(runs)} runs")


def run_names(paths: Sequence[Path]) -> list[str]:
    """The runs' folders, `<out_dir>/fold<k>`."""
    return ["/".join(path.resolve().parent.parts[-2:]) for path in paths]


def slug(name: str) -> str:
    """A class's name as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def save(path: Path, picture: np.ndarray) -> None:
    """Write an RGB picture (height, width, 3) as PNG, atomically."""
    data = cv2.imencode(".png", picture[..., ::-1])[1]
    with atomic(path) as temporary:
        temporary.write_bytes(data.tobytes())  # imwrite does not take every path


def say(text: str) -> None:
    """Tell the user where a result is."""
    print(text)  # noqa: T201


# What each mode calls, how many images or cells it shows, and at how many pixels.
MODES = {
    "overlays": (overlays, 12, 1024), "contact_sheet": (contact_sheet, 20, 176), "misses": (misses, 24, 240),
    "curves": (curves, None, None),
}  # fmt: skip


if __name__ == "__main__":
    run(main)
