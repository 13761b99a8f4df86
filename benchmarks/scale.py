"""A million cells through makefolds, convertpredictions, ensemble and evaluate: seconds and peak memory of each.

    python benchmarks/scale.py [--cells 1000000] [--views 8] [--size 2048]

Makes, in a temporary folder (23 GB of disk for a million cells), what the scripts read: a train.csv and the cells table
of as many images as hold that many cells (21.7 an image, as in the HPA challenge's training set), raw predictions of a
cell model with --views views and of an image model, and a truth table. Mask texts are those of eight drawn images, used
again and again. The submission holds every class of every cell, 19 triples a cell.
"""

import argparse
import multiprocessing
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from augment.views import VIEWS  # noqa: E402
from benchmarks.evaluate import draw  # noqa: E402
from benchmarks.tables import EMPTY, timed  # noqa: E402
from cells.table import write_table  # noqa: E402
from common.errors import run  # noqa: E402
from competitions.hpa import CLASSES  # noqa: E402

CELLS_AN_IMAGE = (8, 12, 15, 18, 20, 24, 30, 46)  # of the drawn images: mean 21.6, as skewed as the challenge's


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--views", type=int, default=8, choices=range(1, len(VIEWS) + 1), metavar="1..8")
    parser.add_argument("--size", type=int, default=2048, help="side of an image, pixels")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Make the tables, run the scripts one after another, print a table."""
    args = get_args_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        views = list(VIEWS)[: args.views]
        # In a process of its own: a command that this one starts would count this one's memory as its own.
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            print(pool.submit(make_data, folder, args.cells, args.size, views).result(), flush=True)
        for title, words in commands(folder, views).items():
            seconds, megabytes = timed([sys.executable, ROOT / words[0], *words[1:]])
            print(f"{title:32}{seconds:9.1f} s{megabytes:9.0f} MB", flush=True)
        size = (folder / "out" / "submission_config.csv").stat().st_size
        print(f"the submission has {size / 1e9:.2f} GB")
    return None


def make_data(folder: Path, cells: int, size: int, views: Sequence[str]) -> str:
    """Write everything that the scripts read; gives a line about it."""
    generator = np.random.default_rng(0)
    drawn = [draw(count, size, generator) for count in CELLS_AN_IMAGE]
    pattern = np.array([len(found) for _, found in drawn])
    images = int(np.searchsorted(np.cumsum(np.resize(pattern, cells // pattern.min() + 1)), cells)) + 1
    ids = np.array([f"{image:08x}-f1f2-4fbe-b043-b6bfea5404bb" for image in range(images)], dtype=object)
    labels = image_labels(images, generator)
    write_table(pd.DataFrame({"ID": ids, "Label": labels}), folder / "train.csv")
    square = {"ImageWidth": size, "ImageHeight": size}
    write_table(pd.DataFrame({"ID": ids, **square, "PredictionString": f"0 1 {EMPTY}"}), folder / "sample.csv")
    found = cells_table(ids, [texts for _, texts in drawn], square)[:cells]
    write_table(found, folder / "cells.csv")
    true = cells_table(ids, [texts for texts, _ in drawn], square)
    true["Label"] = labels[np.searchsorted(ids, true["ImageID"].to_numpy())]
    write_table(true, folder / "truth.csv")
    config = [(f"probabilities_{name}_6.csv", name, *[1] * len(CLASSES)) for name in ("cell", "image")]
    write_table(pd.DataFrame(config, columns=["Predictions", "Type", *CLASSES]), folder / "config.csv")
    for name, keys in (("cell", found["Image"]), ("image", pd.Series(ids))):
        texts = keys.to_numpy(dtype=str)
        for view in views:
            path = folder / "raw" / name / "fold0" / "epoch_006" / f"{view}_seed0" / "prob_test.npz"
            path.parent.mkdir(parents=True)
            probs = generator.random((len(texts), len(CLASSES)), np.float32) ** 4
            np.savez(path, ids=texts, probs=probs)
    length = found["PredictionString"].str.len().mean()
    return f"{cells} cells of {images} images, mask texts of {length:.0f} characters, {len(views)} views"


def image_labels(images: int, generator: np.random.Generator) -> np.ndarray:
    """A label text an image: one to three classes."""
    draws = np.sort(generator.integers(len(CLASSES), size=(images, 3)), axis=1)
    counts = generator.integers(1, 4, images)
    rows = zip(draws.tolist(), counts.tolist(), strict=True)
    return np.array(["|".join(map(str, dict.fromkeys(own[:count]))) for own, count in rows], dtype=object)


def cells_table(ids: np.ndarray, drawn: Sequence[Sequence[str]], square: dict[str, int]) -> pd.DataFrame:
    """The cells table of images whose cells' mask texts are those of the drawn images in turn."""
    counts = np.array([len(drawn[image % len(drawn)]) for image in range(len(ids))])
    owners = np.repeat(ids, counts)
    numbers = np.concatenate([np.arange(1, count + 1) for count in counts])
    texts = np.concatenate([np.array(drawn[image % len(drawn)], dtype=object) for image in range(len(ids))])
    names = [f"{owner}+{number}" for owner, number in zip(owners, numbers.tolist(), strict=True)]
    table = pd.DataFrame({"Image": names, "ImageID": owners, "CellID": numbers, **square, "PredictionString": texts})
    return table.assign(x1=0, y1=0, x2=300, y2=300)


def commands(folder: Path, views: Sequence[str]) -> dict[str, list]:
    """The commands in their order: a name for the table -> the script and its flags."""
    cells, sample, out = folder / "cells.csv", folder / "sample.csv", folder / "out"
    convert = [
        "convertpredictions.py", "--augment", ",".join(views), "--epoch", "6", "--predictions_path", folder / "raw",
        "--meta_csv_path", sample, "--cell_meta_csv_path", cells, "--out_path", out,
    ]  # fmt: skip
    return {
        "makefolds.py": ["makefolds.py", "--metadata", folder / "train.csv", "--cell_metadata", cells,
                         "--split_name", "folds10", "--folds_dir", folder / "folds"],
        "convertpredictions.py, cells": [*convert, "--model", "cell", "--cellorimage", "cell"],
        "convertpredictions.py, images": [*convert, "--model", "image", "--cellorimage", "image"],
        "ensemble.py, with submission": ["ensemble.py", folder / "config.csv", "--submission", "1", "--meta_csv",
                                         sample, "--cell_meta_csv_path", cells, "--out_path", out],
        "evaluate.py": ["evaluate.py", "--submission", out / "submission_config.csv", "--truth",
                        folder / "truth.csv"],
    }  # fmt: skip


if __name__ == "__main__":
    run(main)
