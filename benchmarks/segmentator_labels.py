"""Labelling of the HPA Cell Segmentator's predictions: ours against the published steps in scikit-image.

    python benchmarks/segmentator_labels.py                  # 20 predictions of 2048x2048
    python benchmarks/segmentator_labels.py --images 4 --side 1024

Made-up predictions of fields from sparse to crowded, half of them enlarged by repeated pixels, as the published program
does it, half smoothly. CPU seconds of one thread, both in one run; the oracle is tests/segmentator_oracle.py.
"""

import argparse
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from functools import wraps
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

import cv2  # noqa: E402
import numpy as np  # noqa: E402
import segmentator_oracle  # noqa: E402
from segmentator_oracle import Field, matched_iou, predictions  # noqa: E402

from cells import segmentator_labels  # noqa: E402
from common.errors import run  # noqa: E402

STEPS = {  # step -> functions of ours, of the oracle
    "nuclei": (["label_nuclei"], ["oracle_nuclei"]),
    "threshold": (["cell_threshold"], ["threshold_otsu"]),
    "two floods": (["flood"], ["watershed"]),
    "drop and close": (["_drop_small", "_close"], ["drop_objects", "closing"]),
    "cut, fill, number": (["_pieces", "interiors", "fill_holes", "find_regions", "keep_regions"],
                          ["cut_and_fill", "label"]),
    "nuclei of cells": (["_nuclei_of_cells"], []),
}  # fmt: skip
FIELDS = (
    Field(),
    Field(cells=15, reach=60),
    Field(cells=60, nucleus=13, reach=34),
    Field(cells=20, nucleus=22, reach=75, twins=0.5),
    Field(cells=330, nucleus=8.5, reach=15, twins=0, waviness=2),
)


def get_args_parser() -> argparse.ArgumentParser:
    """The flags and their defaults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=20, help="default: 20")
    parser.add_argument("--side", type=int, default=2048, help="pixels; default: 2048")
    return parser


class Clock:
    """CPU seconds by step; a step within a step counts for the outer one."""

    def __init__(self):
        self.seconds, self.busy = defaultdict(float), False

    def measure(self, step: str, function):
        """`function`, its time kept under `step`."""

        @wraps(function)
        def measured(*args, **kwargs):
            if self.busy:
                return function(*args, **kwargs)
            self.busy, start = True, time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.busy = False
                self.seconds[step] += time.process_time() - start

        return measured

    def run(self, module, functions: dict[str, list[str]], call):
        """`call()` with the steps of `module` measured, and the whole as "all"."""
        with ExitStack() as stack:
            for step, names in functions.items():
                for name in names:
                    stack.enter_context(patch.object(module, name, self.measure(step, getattr(module, name))))
            start = time.process_time()
            result = call()
            self.seconds["all"] += time.process_time() - start
        return result


def main(argv: Sequence[str] | None = None) -> int | None:
    """Label every prediction both ways and print the table."""
    args = get_args_parser().parse_args(argv)
    cv2.setNumThreads(1)
    ours, theirs = Clock(), Clock()
    our_steps, their_steps = ({step: pair[side] for step, pair in STEPS.items()} for side in (0, 1))
    for cells, nucleus in ((3, 17), (400, 4)):  # compiles what few and many cells need
        planes = predictions((1024, 1024), 0, Field(cells, nucleus, reach=10))
        segmentator_labels.label_cells(*planes, segmentator_labels.Rules(scale=0.2))
    rows = []
    for seed in range(args.images):
        field = FIELDS[seed % len(FIELDS)]
        field = field._replace(cells=max(1, round(field.cells * (args.side / 2048) ** 2)))
        planes = predictions((args.side, args.side), seed, field, smooth=bool(seed // len(FIELDS) % 2))
        found = ours.run(segmentator_labels, our_steps, lambda: segmentator_labels.label_cells(*planes))  # noqa: B023
        truth = theirs.run(segmentator_oracle, their_steps, lambda: segmentator_oracle.oracle(*planes))  # noqa: B023
        rows.append([found[0].max(), truth[0].max(), *map(matched_iou, found, truth)])
    show(args, ours.seconds, theirs.seconds, np.array(rows))
    return None


def show(args: argparse.Namespace, ours: dict, theirs: dict, rows: np.ndarray) -> None:
    """Print the seconds an image by step, and how alike the cells are."""
    lines = [f"{'CPU s an image, one thread':28}{'ours':>8}{'oracle':>8}{'times':>8}"]
    rest = {name: clock["all"] - sum(clock[step] for step in STEPS) for name, clock in (("o", ours), ("t", theirs))}
    for step, own, other in [
        *((step, ours[step], theirs[step]) for step in STEPS),
        ("the rest", rest["o"], rest["t"]),
        ("all", ours["all"], theirs["all"]),
    ]:
        faster = f"{other / own:8.1f}" if own and other else f"{'-':>8}"
        lines.append(f"{step:28}{own / args.images:8.3f}{other / args.images:8.3f}{faster}")
    same = int((rows[:, 0] == rows[:, 1]).sum())
    lines.append(
        f"cells: {rows[:, 0].sum():.0f} and {rows[:, 1].sum():.0f}, {rows[:, 0].max():.0f} at most in an image"
    )
    lines.append(f"images with equal counts: {same} of {len(rows)}")
    lines.append(f"IoU, cells: mean {rows[:, 2].mean():.5f}, lowest image {rows[:, 2].min():.5f}")
    lines.append(f"IoU, nuclei: mean {rows[:, 3].mean():.5f}, lowest image {rows[:, 3].min():.5f}")
    print("\n".join(lines))


if __name__ == "__main__":
    run(main)
