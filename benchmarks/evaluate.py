"""How long the competition's mAP takes, and how much memory: 559 images x 25 cells x 19 classes.

    python benchmarks/evaluate.py [--images 559] [--cells 25] [--size 2048] [--plain_images 1]

Runs evaluate.py as a process on a submission and a truth of that size (a detection is a true cell, moved a little), and
the plain way (every triple's mask decoded to pixels, a loop over detections and truths) on the first --plain_images
images; its time grows with the number of images, so the figure for all is reckoned from that. Both give the same score.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402

from cells.masks import decode_mask, encode_label_image  # noqa: E402
from cells.table import write_table  # noqa: E402
from cells.triples import format_triples, parse_triples, read_rows, write_rows  # noqa: E402
from competitions.hpa import CLASSES, IOU_THRESHOLD, score  # noqa: E402
from metrics.detection_map import average_precision  # noqa: E402


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=559)
    parser.add_argument("--cells", type=int, default=25)
    parser.add_argument("--size", type=int, default=2048)
    parser.add_argument("--plain_images", type=int, default=1)
    return parser


def make_data(folder: Path, images: int, cells: int, size: int, generator: np.random.Generator) -> None:
    """truth.csv, submission.csv and the same of the first few images; eight different images are drawn and repeated."""
    drawn = [draw(cells, size, generator) for _ in range(min(8, images))]
    truth, rows = [], []
    for image in range(images):
        true, found = drawn[image % len(drawn)]
        labels = generator.random((len(true), len(CLASSES))) < 1.6 / len(CLASSES)
        labels[np.arange(len(true)), generator.integers(len(CLASSES), size=len(true))] = True
        probs = np.clip(labels[: len(found)] * 0.3 + generator.beta(0.5, 2, (len(found), len(CLASSES))), 0, 1)
        name = f"{image:08x}-f1f2-4fbe-b043-b6bfea5404bb"
        rows.append((name, size, size, format_triples(found, probs)))
        truth += [
            (name, cell + 1, size, size, mask, "|".join(map(str, np.flatnonzero(own))))
            for cell, (mask, own) in enumerate(zip(true, labels, strict=True))
        ]
    columns = ["ImageID", "CellID", "ImageWidth", "ImageHeight", "PredictionString", "Label"]
    write_table(pd.DataFrame(truth, columns=columns), folder / "truth.csv")
    write_rows(folder / "submission.csv", rows)


def draw(cells: int, size: int, generator: np.random.Generator) -> tuple[list[str], list[str]]:
    """Mask texts of true cells (wavy discs on a grid) and of the found ones: the same discs, moved and swollen."""
    side = int(np.ceil(np.sqrt(cells)))
    pitch = size / side
    true, found = (np.zeros((size, size), np.int32) for _ in range(2))
    for cell in range(cells):
        centre = (np.array(divmod(cell, side)) + 0.5) * pitch
        for labels, blur in ((true, 0), (found, 0.12)):
            place = centre + generator.normal(0, blur, 2) * pitch
            swell = 1 + generator.normal(0, blur)
            low = np.maximum(place - pitch * swell, 0).astype(int)
            part = labels[tuple(slice(start, start + int(2 * pitch * swell) + 1) for start in low)]
            y, x = (np.indices(part.shape).T + (low - place)).T
            radius = pitch * (0.42 + 0.03 * np.sin(7 * np.arctan2(y, x) + cell)) * swell
            part[np.hypot(y, x) < radius] = cell + 1
    return [list(encode_label_image(labels).values()) for labels in (true, found)]


def timed(folder: Path) -> tuple[float, float]:
    """Wall seconds and peak memory in MB of evaluate.py as a process."""
    words = [ROOT / "evaluate.py", "--submission", folder / "submission.csv", "--truth", folder / "truth.csv"]
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, words)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("evaluate.py failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def plain_score(folder: Path) -> float:
    """The mean average precision with a loop over pixels' masks."""
    truth = pd.read_csv(folder / "truth.csv", dtype=str)
    found: dict[int, list[tuple[float, bool]]] = {index: [] for index in range(len(CLASSES))}
    for row in read_rows(folder / "submission.csv"):
        own = truth[truth["ImageID"] == row.id]
        true = [decode_mask(text, row.height, row.width) for text in own["PredictionString"]]
        labels = [set(map(int, text.split("|"))) for text in own["Label"]]
        used = set()
        classes, scores, masks = parse_triples(row.text, len(CLASSES), row.where)
        for index in np.argsort(-scores, kind="stable"):
            name, mask = int(classes[index]), decode_mask(masks[index], row.height, row.width)
            overlaps = [
                (mask & other).sum() / (mask | other).sum() if name in label else -1
                for other, label in zip(true, labels, strict=True)
            ]
            best = int(np.argmax(overlaps))
            hit = overlaps[best] >= IOU_THRESHOLD and (name, best) not in used
            used |= {(name, best)} if hit else set()
            found[name].append((float(scores[index]), hit))
    counts = [sum(str(name) in text.split("|") for text in truth["Label"]) for name in range(len(CLASSES))]
    pairs = [(np.array(found[name]).reshape(-1, 2), count) for name, count in enumerate(counts)]
    return float(np.nanmean([average_precision(pair[:, 0], pair[:, 1] > 0, count) for pair, count in pairs]))


def main() -> None:
    args = get_args_parser().parse_args()
    with tempfile.TemporaryDirectory() as name:
        whole, few = Path(name, "whole"), Path(name, "few")
        make_data(whole, args.images, args.cells, args.size, np.random.default_rng(0))
        make_data(few, args.plain_images, args.cells, args.size, np.random.default_rng(1))
        seconds, memory = timed(whole)
        megabytes = (whole / "submission.csv").stat().st_size / 1e6
        start = time.perf_counter()
        plain = plain_score(few)
        plain_seconds = time.perf_counter() - start
        ours = score(few / "submission.csv", few / "truth.csv")["AP"].iloc[-1]
    print(f"evaluate.py, {args.images} images, {megabytes:.0f} MB   {seconds:7.2f} s {memory:7.0f} MB")
    reckoned = plain_seconds * args.images / args.plain_images
    print(f"plain, {args.plain_images} images {plain_seconds:7.2f} s -> {reckoned:.0f} s for all")
    print(f"score of those images: ours {ours:.12f}, plain {plain:.12f}")


if __name__ == "__main__":
    main()
