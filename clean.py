"""Clean the labelled boxes of a training set, and add images without cells that are made from its own.

    python clean.py --competition cytologia --metadata DATA/train.csv --root_dir DATA/train --out_dir OUT/clean \\
        --groups OUT/duplicates.csv --backgrounds 400

Writes <out_dir>/train.csv, which is --metadata without

* boxes that can hardly be right: a side below 8 pixels, one side more than 4 times the other, mostly outside the image,
  or twice the same (cells/cleaning.py); an image that has no other box goes with them;
* with --found and --worst N, the N images whose labels finds of networks that have not seen them contradict most (true
  boxes that are missed, and finds that nobody marked, among the images of these tables and of those of --looked, as
  images without any find are in no cells table); noisy.csv lists all images;

and with a row more for each of --backgrounds N training images whose cells are removed: the boxes and all that Otsu's
threshold calls stained, filled like the background around them. Such a row has an empty class: detectors see an image
without cells. Where Background is among the --classes its class is that instead, and its box a place of the size of a
cell: classifiers learn what is no cell, detectors still see none.

<out_dir>/images holds links to the images of the table, and the new ones: it is --root_dir for what comes next. With
--groups (findduplicates.py) new images are made from those that are kept alone, and <out_dir>/duplicates.csv has each
in its source's cluster, so that makefolds.py --groups keeps the two in one fold.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

import competitions
from cells.cleaning import noisy_boxes, noisy_images, remove_cells
from cells.crops import to_uint8
from cells.groups import read_groups
from cells.images import image_folder
from cells.store import write_image_png
from cells.table import BOX, KEY, match_rows, read_table, write_table
from common.errors import UserError, run, some
from common.files import remove_leftovers, sole_writer
from common.say import say
from common.seeds import rng
from competitions import Competition

PREFIX = "background_"  # of the new images' names


def get_args_parser() -> argparse.ArgumentParser:
    """The flags and their defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    competitions.add_flags(parser)
    parser.add_argument("--metadata", required=True, help="the table of labelled boxes, with corners: train.csv")
    parser.add_argument("--root_dir", required=True, help="the folder of its images")
    parser.add_argument("--out_dir", required=True, help="the folder to write")
    parser.add_argument("--groups", help="ID,Cluster,Keep: near duplicates")
    parser.add_argument("--found", nargs="+", help="cells tables of networks that have not seen the images")
    parser.add_argument("--looked", nargs="+",
        help="tables of the images that they looked at: one in which they found nothing is in no cells table")
    parser.add_argument("--worst", type=int, default=0, help="images to leave out, those that --found contradicts most")
    parser.add_argument("--backgrounds", type=int, default=0, help="images without cells to make")
    parser.add_argument("--seed", type=int, default=42)
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Leave out what is noisy, add backgrounds, write the table and the links, say how many of each."""
    args = get_args_parser().parse_args(argv)
    competition = competitions.get(args.competition, args.classes)
    rows, cells = read(args, competition)
    groups = own_groups(args.groups, rows["ImageID"]) if args.groups else None
    out, failed = Path(args.out_dir), []
    refuse_own_files(args, out)
    with sole_writer(out):
        remove_leftovers(out / "images")
        noisy = cells.index[noisy_boxes(cells)]
        kept = rows.drop(index=noisy)
        kept = kept[~kept["ImageID"].isin(wrong_images(args, competition, rows, cells, out))]
        sources = kept["ImageID"] if groups is None else groups["ID"][groups["Keep"] == 1]
        sources = cells[cells["ImageID"].isin(kept["ImageID"]) & cells["ImageID"].isin(sources)]
        new = backgrounds(sources, args, competition, out / "images", failed)
        made = pd.DataFrame(new, columns=["Source", *rows])
        for path in set((out / "images").glob(f"{PREFIX}*.png")) - {out / "images" / name for name in made["ImageID"]}:
            path.unlink()  # of a run that made others
        link_images(args.root_dir, kept["ImageID"].unique(), competition, out / "images")
        if groups is not None:
            write_table(with_backgrounds(groups, kept["ImageID"], made), out / "duplicates.csv")
        table = pd.concat([kept, made[list(rows)]], ignore_index=True) if len(made) else kept
        write_table(table.rename(columns={"ImageID": competition.ID_COLUMN}), out / "train.csv")
    lost = rows["ImageID"].nunique() - kept["ImageID"].nunique()
    say(f"{out}: {len(noisy)} noisy boxes and {lost} images out, {len(made)} images without cells in")
    if failed:
        say(f"no image without cells was made of: {'; '.join(failed)}", sys.stderr)
    return 1 if failed else None


def refuse_own_files(args: argparse.Namespace, out: Path) -> None:
    """UserError where --out_dir holds files of the user's that would be written over."""
    for flag, name in (("metadata", "train.csv"), ("groups", "duplicates.csv")):
        given = getattr(args, flag)
        if given and (out / name).exists() and (out / name).samefile(given):
            raise UserError(f"--out_dir {out} holds --{flag} {given}, which would be lost; choose another folder")
    for path in (out / "images").glob("*"):
        if not path.is_symlink() and not path.name.startswith((PREFIX, ".")):
            raise UserError(f"--out_dir {out}: {path} is no link that clean.py made; choose another folder")


def read(args: argparse.Namespace, competition: Competition) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of --metadata (ImageID, the corners as they are written, class), and as a cells table those that are
    cells; their index is the rows'.
    """
    for name in ("worst", "backgrounds"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} {getattr(args, name)} must be 0 or more")
    if args.looked and not args.found:
        raise UserError("--looked, tables of images, goes with --found, what was found in them")
    if bool(args.found) != bool(args.worst):
        raise UserError("--found, cells tables, and --worst, how many images to leave out, go together")
    rows = read_table(args.metadata, {competition.ID_COLUMN: str, "class": str})
    if not set(BOX) <= set(rows):
        raise UserError(f"--metadata {args.metadata} must have boxes as corners, in columns {', '.join(BOX)}")
    cells = competition.read_cells(args.metadata, root=image_folder(args.root_dir, "--root_dir"))
    rows = rows.rename(columns={competition.ID_COLUMN: "ImageID"})[["ImageID", *BOX, "class"]]
    return rows, cells.set_axis(rows.index[rows["class"] != ""])


def own_groups(path: str, names: pd.Series) -> pd.DataFrame:
    """The rows of duplicates.csv for these images; UserError when one has none."""
    groups = read_groups(path, keep=True)
    images = pd.DataFrame({"ID": names.unique()})
    return groups.iloc[match_rows(images, groups, ["ID"], path, exact=False)].reset_index(drop=True)


def wrong_images(
    args: argparse.Namespace, competition: Competition, rows: pd.DataFrame, cells: pd.DataFrame, out: Path
) -> Sequence[str]:
    """The --worst images of those that the tables --found and --looked hold; noisy.csv has all of them."""
    if not args.found:
        return []
    columns = {"ImageID": str, "CellID": int, **dict.fromkeys([*BOX, "score"], float)}
    found = pd.concat([read_table(path, columns, key=KEY) for path in args.found], ignore_index=True)
    found = found[~found["ImageID"].str.startswith(PREFIX)].reset_index(drop=True)  # made by this script before
    looked = set(found["ImageID"])
    for path in args.looked or []:
        looked.update(competition.read_metadata(path)["ID"])
    unknown = found["ImageID"][~found["ImageID"].isin(rows["ImageID"])].unique()
    if len(unknown):
        raise UserError(f"--found {some(args.found)} has the image {some(unknown)}, which {args.metadata} lacks")
    table = noisy_images(cells[cells["ImageID"].isin(looked)], found)
    write_table(table, out / "noisy.csv")
    return table["ImageID"][table["Missed"] + table["Extra"] > 0].head(args.worst).tolist()


def backgrounds(
    cells: pd.DataFrame, args: argparse.Namespace, competition: Competition, folder: Path, failed: list[str]
) -> Iterator[tuple]:
    """Make --backgrounds images without cells; of each the image that it was made from, and its row of the table.
    `failed` gets what is said of images that cannot be read.

    Which images these are hardly changes when others are left out: each has its own place in the draw.
    """
    labelled = getattr(competition, "BACKGROUND", None) in competition.CLASSES
    own = dict(list(cells.groupby("ImageID")[BOX]))
    made = 0
    for name in sorted(own, key=lambda name: rng(args.seed, "background", name).random()):
        if made == args.backgrounds:
            return
        boxes, generator = own[name].to_numpy(float), rng(args.seed, "fill", name)
        try:
            image = competition.read_image(args.root_dir, name)
        except competition.ImageError as error:
            failed.append(str(error))
            continue
        empty = remove_cells(to_uint8(image), boxes, generator)
        if empty is None:
            continue
        write_image_png(folder / f"{PREFIX}{name}.png", empty)
        box = place(boxes, empty.shape, generator) if labelled else (0, 0, 0, 0)
        yield name, f"{PREFIX}{name}.png", *box, competition.BACKGROUND if labelled else ""
        made += 1
    if made < args.backgrounds:
        say(f"only {made} images show enough background to make --backgrounds {args.backgrounds}")


def place(boxes: np.ndarray, shape: tuple[int, ...], generator: np.random.Generator) -> tuple[int, int, int, int]:
    """A box anywhere in an image of `shape` (height, width, ...), as large as one of the boxes (N, 4) or the image."""
    box = boxes[generator.integers(len(boxes))]
    width, height = np.minimum((box[2:] - box[:2]).round().astype(int), shape[1::-1]).clip(1)
    x, y = (int(generator.integers(limit + 1)) for limit in (shape[1] - width, shape[0] - height))
    return x, y, x + int(width), y + int(height)


def link_images(root: str, names: Sequence[str], competition: Competition, folder: Path) -> None:
    """Links in `folder` to the images, which stay where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        path, source = folder / name, competition.image_files(root, name)[0].resolve()
        if path.resolve() != source:
            path.unlink(missing_ok=True)
            path.symlink_to(source)


def with_backgrounds(groups: pd.DataFrame, kept: pd.Series, made: pd.DataFrame) -> pd.DataFrame:
    """The groups of the images that are kept, and below them the new ones, each in its source's cluster."""
    sources = made[["Source"]].rename(columns={"Source": "ID"})
    new = groups.iloc[match_rows(sources, groups, ["ID"], "--groups", exact=False)]
    new = new.assign(ID=made["ImageID"].to_numpy(), Keep=1)
    return pd.concat([groups[groups["ID"].isin(kept)], new], ignore_index=True)[["ID", "Cluster", "Keep"]]


if __name__ == "__main__":
    run(main)
