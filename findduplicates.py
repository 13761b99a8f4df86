"""Find near-duplicate images by perceptual hash, so that folds keep them together or all but one can be dropped.

    python findduplicates.py --competition cytologia --metadata DATA/train.csv --root_dir DATA/images \\
        --out DATA/duplicates.csv
    python findduplicates.py --metadata DATA/train.csv DATA/external.csv --root_dir DATA/train DATA/external \\
        --out DATA/duplicates.csv

Two images are near when at most --distance of the 64 bits of their hashes differ: in each of the four channels for
images of four channels, in the grey image for RGB ones. Clusters are what is near by way of any number of others.

Writes `ID,Cluster,Keep,Hash`, a row an image: an image that is near no other is a cluster of its own. Keep is 1 for one
image of each cluster, the one with the most labels, of those the first in the tables. An image that cannot be read is
named at the end (exit code 1); it has no Hash and is a cluster of its own. Hashes are kept in `<out>_hashes.csv`: the
same command again only reads images whose files are new or changed.
"""

import argparse
import csv
import errno
import os
import re
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tqdm import tqdm

import competitions
from cells.duplicates import BITS, choose_kept, find_clusters, format_hash, hash_image, parse_hashes
from cells.table import check_unique, write_table
from common.errors import UserError, explain, run
from common.files import existing, sole_writer
from common.say import say
from common.workers import WorkerDied, count_workers, run_each

HASH = re.compile(r"[0-9a-f]{16}(-[0-9a-f]{16})*")


def get_args_parser() -> argparse.ArgumentParser:
    """The flags and their defaults."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    competitions.add_flags(parser)
    parser.add_argument("--metadata", required=True, nargs="+", help="tables of images: train.csv, external.csv, ...")
    parser.add_argument("--root_dir", required=True, nargs="+", help="the folder of each table's images")
    parser.add_argument("--out", required=True, help="the table to write, duplicates.csv")
    parser.add_argument(
        "--distance", type=int,
        help="bits, 0 to 63, that may differ between near hashes; default: 4 in each of several channels, 2 in a grey "
        "image, as one hash alone agrees by chance more often",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, help="processes; 0 works in this one; default: one a core")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Hash what is not hashed, find the clusters, write the table."""
    args = get_args_parser().parse_args(argv)
    if args.distance is not None and not 0 <= args.distance < BITS:
        raise UserError(f"--distance {args.distance} must be 0 to {BITS - 1} bits")
    workers = count_workers(args.workers)
    images = read_images(args)
    out = Path(args.out)
    for path in args.metadata:
        if out.exists() and out.samefile(path):
            raise UserError(f"--out {out} is a --metadata table, which would be written over; choose another name")
    if out.is_dir():
        raise UserError(f"--out {out} is a folder; the name of a table is right")
    with sole_writer(out.parent):
        hashes, failed = hash_all(images, args.competition, out.with_name(f"{out.stem}_hashes.csv"), workers)
        table = cluster(images, hashes, args.distance)
        write_table(table, out)
    say(f"{out}: {describe(table, images['Label'])}")
    for image, reason in sorted(failed.items()):
        say(f"not hashed: {image}: {reason}", sys.stderr)
    return 1 if failed else None


def read_images(args: argparse.Namespace) -> pd.DataFrame:
    """The images of all tables: ID, Label ('' without labels) and Folder, unique in ID."""
    if len(args.root_dir) != len(args.metadata):
        raise UserError(f"--root_dir names {len(args.root_dir)} folders for {len(args.metadata)} --metadata tables")
    competition = competitions.get(args.competition, args.classes)
    tables = []
    for path, folder in zip(args.metadata, args.root_dir, strict=True):
        table = competition.read_metadata(path)
        tables.append(table[["ID"]].assign(Label=table.get("Label", ""), Folder=str(existing(folder, "--root_dir"))))
    images = pd.concat(tables, ignore_index=True)
    if images.empty:
        raise UserError(f"{args.metadata[0]} has no images")
    check_unique(images, ["ID"], " + ".join(args.metadata))
    return images


def hash_all(images: pd.DataFrame, name: str, log: Path, workers: int) -> tuple[dict[str, str], dict[str, str]]:
    """The hashes of the images as text, and the reasons for those that have none, both by ID.

    log: the table of hashes that are known, to which each new one is added at once.
    """
    rows = images[["ID", "Folder"]].itertuples(index=False, name=None)
    states = {image: file_state(name, folder, image) for image, folder in rows}
    known = read_log(log)
    folders = dict(zip(images["ID"], images["Folder"], strict=True))
    todo = [image for image, state in states.items() if known.get(image, (None,))[0] != state]
    tasks = ((name, folders[image], image, states[image], log) for image in todo)
    failed = {}
    with tqdm(total=len(todo), desc="hash", unit="image") as bar, closing(run_each(hash_file, tasks, workers)) as ends:
        for (_, _, image, *_), error in ends:
            bar.update()
            if isinstance(error, OSError):  # of writing: the next image would fail, too
                raise error
            if error is not None:
                plain = isinstance(error, (UserError, WorkerDied))
                failed[image] = str(error) if plain else f"{type(error).__name__}: {error}"
    known = read_log(log)
    return {image: known[image][1] for image in states if image not in failed}, failed


def file_state(name: str, folder: str, image: str) -> str:
    """Sizes and times of an image's files: a text that differs once they have changed."""
    states = [path.stat() for path in competitions.get(name).image_files(folder, image) if path.exists()]
    return " ".join(f"{state.st_size}:{state.st_mtime_ns}" for state in states)


def hash_file(name: str, folder: str, image: str, state: str, log: Path) -> None:
    """Hash one image and add its line to the log, by one write, as other processes add theirs."""
    cv2.setNumThreads(1)  # the images are what is done in parallel
    try:
        pixels = competitions.get(name).read_image(folder, image)
    except OSError as error:
        raise UserError(explain(error)) from None
    text = format_hash(hash_image(pixels))
    quoted = '"' + image.replace('"', '""') + '"'
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    try:
        line = f"\n{quoted},{state},{text}".encode()  # begins a line: what was cut off before stays apart
        if os.write(file, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(log))
    finally:
        os.close(file)


def read_log(log: Path) -> dict[str, tuple[str, str]]:
    """ID -> (state of its files, hash) of the log's whole lines; a later line goes before an earlier one."""
    if not log.exists():
        return {}
    with log.open(newline="", encoding="utf-8", errors="replace") as file:
        rows = (next(csv.reader([line.replace("\0", "")]), []) for line in file)  # a damaged line costs no other
        lines = [row for row in rows if len(row) == 3 and HASH.fullmatch(row[2])]
    return {image: (state, text) for image, state, text in lines}


def cluster(images: pd.DataFrame, hashes: dict[str, str], distance: int | None) -> pd.DataFrame:
    """`ID,Cluster,Keep,Hash` of the images; those without a hash are alone."""
    texts = pd.Series([hashes.get(image, "") for image in images["ID"]], dtype=object)
    there = (texts != "").to_numpy()
    if texts[there].str.len().nunique() > 1:
        raise UserError("some images have four channels, others three: they cannot be compared; give one kind alone")
    values = parse_hashes(texts[there])
    found = find_clusters(values, distance if distance is not None else 2 if values.shape[1] == 1 else 4)
    clusters = np.empty(len(images), np.int64)
    clusters[there] = found
    clusters[~there] = found.max(initial=-1) + 1 + np.arange((~there).sum())
    counts = images["Label"].str.count(r"\|").to_numpy() + (images["Label"] != "").to_numpy()
    kept = choose_kept(clusters, counts).astype(np.int64)
    return pd.DataFrame({"ID": images["ID"], "Cluster": clusters, "Keep": kept, "Hash": texts})


def describe(table: pd.DataFrame, labels: pd.Series) -> str:
    """What was found, in one line."""
    own = labels.groupby(table["Cluster"])
    sizes, differ = own.size(), own.nunique() > 1
    text = f"{len(table)} images, {int((sizes > 1).sum())} clusters of near duplicates, {len(table) - len(sizes)} spare"
    return f"{text}; the largest has {sizes.max()}, {int(differ.sum())} have unlike labels"


if __name__ == "__main__":
    run(main)
