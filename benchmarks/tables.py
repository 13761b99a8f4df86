"""How long the way from raw predictions to submission.csv takes, and how much memory.

    python benchmarks/tables.py [--images 559] [--cells 14400] [--plain_images 40]

Makes raw predictions of the size of the HPA challenge's public test set: 14,400 cells, 8 views, two cell models and an
image model, mask texts as long as real ones. Then runs three times convertpredictions.py and once ensemble.py as
processes, as a user does, and the same work row by row in plain Python, on the first --plain_images images only (its
time grows with the number of cells, so the figure for all cells is reckoned from that). Both give the same submission.
"""

import argparse
import base64
import csv
import os
import resource
import subprocess
import sys
import tempfile
import time
import zlib
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from augment.views import VIEWS  # noqa: E402
from cells.table import write_table  # noqa: E402
from competitions.hpa import CLASSES, NEGATIVE  # noqa: E402

MODELS = {"Cell_BCE": "cell", "Cell_Focal": "cell", "Image_Focal": "image"}
WEIGHTS = {"Cell_BCE": 0.4, "Cell_Focal": 0.6, "Image_Focal": 1.0}
EMPTY = "eNoLCAgIMAEABJkBdQ=="


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=559)
    parser.add_argument("--cells", type=int, default=14400)
    parser.add_argument("--plain_images", type=int, default=40)
    return parser


def make_data(folder: Path, images: int, cells: int) -> None:
    """The cells table, sample_submission.csv, the ensemble CSV and the raw predictions of all models and views."""
    generator = np.random.default_rng(0)
    ids = [f"{image:08x}-f1f2-4fbe-b043-b6bfea5404bb" for image in range(images)]
    owner = np.sort(generator.integers(images, size=cells))
    number = np.arange(cells) - np.searchsorted(owner, owner) + 1
    owners = [ids[image] for image in owner]
    keys = [f"{image_id}+{cell}" for image_id, cell in zip(owners, number, strict=True)]
    size = {"ImageWidth": 2048, "ImageHeight": 2048}
    masks = {"PredictionString": [mask_text(generator) for _ in range(cells)]}
    box = {"x1": 0, "y1": 0, "x2": 300, "y2": 300}
    table = pd.DataFrame({"Image": keys, "ImageID": owners, "CellID": number, **size, **masks, **box})
    write_table(table, folder / "cells.csv")
    write_table(pd.DataFrame({"ID": ids, **size, "PredictionString": f"0 1 {EMPTY}"}), folder / "sample_submission.csv")
    config = pd.DataFrame([[f"probabilities_{name}_6.csv", kind, *[WEIGHTS[name]] * len(CLASSES)]
                           for name, kind in MODELS.items()], columns=["Predictions", "Type", *CLASSES])  # fmt: skip
    write_table(config, folder / "config.csv")
    for model, kind in MODELS.items():
        names = np.array(keys if kind == "cell" else ids)
        for view in VIEWS:
            path = raw_path(folder, model, view)
            path.parent.mkdir(parents=True)
            np.savez(path, ids=names, probs=generator.beta(0.3, 2, (len(names), len(CLASSES))).astype(np.float32))


def mask_text(generator: np.random.Generator) -> str:
    """A text of 940 characters on average; real images have averages of 400 to 990."""
    counts = bytes(generator.choice(np.frombuffer(b"012345OMNL", np.uint8), int(generator.integers(600, 2200))))
    return base64.b64encode(zlib.compress(counts, 9)).decode()


def raw_path(folder: Path, model: str, view: str) -> Path:
    return folder / "submissions" / model / "fold0" / "epoch_006" / f"{view}_seed0" / "prob_test.npz"


def run_ours(folder: Path) -> list[tuple[str, float, float]]:
    """The four commands, each as (name, seconds, MB at its peak)."""
    tables = ["--cell_meta_csv_path", folder / "cells.csv", "--out_path", folder / "out", "--add_datetime", "0"]
    sample = folder / "sample_submission.csv"
    raw = ["--augment", "all", "--seeds", "1", "--epoch", "6", "--predictions_path", folder / "submissions"]
    commands = [
        ["convertpredictions.py", "--model", model, "--cellorimage", kind, "--meta_csv_path", sample, *raw, *tables]
        for model, kind in MODELS.items()
    ]
    commands.append(["ensemble.py", folder / "config.csv", "--submission", "1", "--meta_csv", sample, *tables])
    names = [f"convertpredictions.py {model}" for model in MODELS] + ["ensemble.py"]
    return [
        (name, *timed([sys.executable, ROOT / words[0], *words[1:]]))
        for name, words in zip(names, commands, strict=True)
    ]


def timed(command: list) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of a process."""
    start = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def run_plainly(folder: Path, images: int) -> tuple[int, list[str]]:
    """The same work for the first images, a row at a time: how many cells that was, and the submission's rows."""
    with (folder / "sample_submission.csv").open() as file:
        sample = list(csv.DictReader(file))[:images]
    with (folder / "cells.csv").open() as file:
        wanted = {row["ID"] for row in sample}
        cells = [row for row in csv.DictReader(file) if row["ImageID"] in wanted]
    means = {}
    for model, kind in MODELS.items():
        rows = [row["Image"] for row in cells] if kind == "cell" else [row["ID"] for row in sample]
        means[model] = plain_means(folder, model, set(rows))
    by_image = defaultdict(list)
    for cell in cells:
        by_image[cell["ImageID"]] += plain_triples(cell, means)
    return len(cells), [" ".join(by_image[row["ID"]]) or row["PredictionString"] for row in sample]


def plain_means(folder: Path, model: str, wanted: set[str]) -> dict[str, list[float]]:
    sums: dict[str, list[float]] = {}
    for view in VIEWS:
        with np.load(raw_path(folder, model, view), allow_pickle=False) as file:
            ids, probs = file["ids"], file["probs"]
        for name, row in zip(ids, probs, strict=True):
            if name in wanted:
                own = sums.setdefault(str(name), [0.0] * len(CLASSES))
                for index in range(len(CLASSES)):
                    own[index] += float(row[index])
    return {name: [float(np.float32(value / len(VIEWS))) for value in row] for name, row in sums.items()}


def plain_triples(cell: dict[str, str], means: dict[str, dict[str, list[float]]]) -> list[str]:
    image = means["Image_Focal"][cell["ImageID"]]
    both = zip(means["Cell_BCE"][cell["Image"]], means["Cell_Focal"][cell["Image"]], strict=True)
    own = [0.4 * bce + 0.6 * focal for bce, focal in both]
    values = [a * b for a, b in zip(own, image, strict=True)]
    values[NEGATIVE] = max(own[NEGATIVE], image[NEGATIVE])
    values = [value if index == NEGATIVE else value * (1 - values[NEGATIVE]) for index, value in enumerate(values)]
    return [f"{index} {value:.10f} {cell['PredictionString']}" for index, value in enumerate(values)]


def same(plain: list[str], folder: Path) -> bool:
    """Whether the plain way's rows hold the numbers and masks that ours wrote."""
    with (folder / "out" / "submission_config.csv").open() as file:
        next(file)
        for text in plain:
            ours, other = next(file).rstrip("\n").split(",")[3].split(), text.split()
            if ours[0::3] != other[0::3] or ours[2::3] != other[2::3]:
                return False
            if not np.allclose([float(x) for x in ours[1::3]], [float(x) for x in other[1::3]], rtol=1e-5, atol=1e-9):
                return False
    return True


def main() -> None:
    args = get_args_parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_data(folder, args.images, args.cells)
        ours = run_ours(folder)
        start = time.perf_counter()
        done, plain = run_plainly(folder, args.plain_images)
        seconds = time.perf_counter() - start
        agree = same(plain, folder)
        bytes_written = (folder / "out" / "submission_config.csv").stat().st_size
    for what, wall, memory in ours:
        print(f"{what:36s} {wall:7.2f} s {memory:7.0f} MB")
    total = sum(wall for _, wall, _ in ours)
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'the four commands':36s} {total:7.2f} s   submission {bytes_written / 1e6:.0f} MB")
    reckoned = seconds * args.cells / done
    print(f"{'row by row, ' + str(done) + ' cells':36s} {seconds:7.2f} s -> {reckoned:.0f} s for all ({own:.0f} MB)")
    print(f"same submission: {agree}")


if __name__ == "__main__":
    main()
