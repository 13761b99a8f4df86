"""Make a competition-shaped data set: images, labels, and the truth that a competition keeps to itself.

    python synthesize.py --competition hpa --out_dir DATA --train 40 --test 10 --size 1024 --seed 1 --jobs 2

writes DATA/train.csv, sample_submission.csv, train/ (8-bit) and test/ (16-bit) as the competition has them, and two
tables that training must not see: DATA/truth.csv (every cell of the test images: mask, box, classes) and
DATA/train_truth.csv. The same seed and size give the same bytes whatever --jobs. Run again after an interruption, or
with a larger --train or --test, and only what is missing is drawn.
"""

import argparse
import json
import re
import shutil
import signal
from collections import deque
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
from tqdm import tqdm

from common.errors import UserError, choose, run
from common.files import atomic, sole_writer
from synthesis import hpa
from synthesis.labels import BALANCES

COMPETITIONS = {"hpa": hpa}
SMALLEST, LARGEST = 128, 8192  # pixels a side
SMALLEST_CELL = 400  # pixels of the image for each cell


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competition", default="hpa", help=f"one of: {', '.join(COMPETITIONS)}")
    parser.add_argument("--out_dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=int, default=40, help="number of training images")
    parser.add_argument("--test", type=int, default=10, help="number of test images")
    parser.add_argument("--size", default="1024", help="side in pixels, or WIDTHxHEIGHT")
    parser.add_argument("--cells", help="MIN-MAX cells an image; default: as many as real images of this area have")
    parser.add_argument("--class_balance", default="flat", help="flat: every class occurs; natural: as often as in HPA")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes that draw at the same time")
    parser.add_argument("--overwrite", action="store_true", help="remove the images in --out_dir first")
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = get_args_parser().parse_args(argv)
    module = choose(COMPETITIONS, args.competition, "--competition")
    request = read_request(args, module)
    counts = {"train": args.train, "test": args.test}
    settings = {"competition": args.competition, "version": module.VERSION, **asdict(request)}
    with sole_writer(args.out_dir):
        claim_folder(args.out_dir, settings, args.overwrite)
        draw_all(args.competition, args.out_dir, request, counts, args.jobs)
        truths = module.write_tables(args.out_dir, request, counts)
    for split, count in counts.items():
        print(f"{split}: {count} images, {len(truths[split])} cells in {args.out_dir}")  # noqa: T201


def read_request(args: argparse.Namespace, module):
    """The flags as the module's Request; UserError names the flag that is wrong."""
    for flag, lowest in (("train", 0), ("test", 0), ("seed", 0), ("jobs", 1)):
        if getattr(args, flag) < lowest:
            raise UserError(f"--{flag} {getattr(args, flag)} must be {lowest} or more")
    if args.train + args.test == 0:
        raise UserError("--train 0 --test 0 asks for no image; one of them must be 1 or more")
    choose(dict.fromkeys(BALANCES), args.class_balance, "--class_balance")
    width, height = _read_size(args.size)
    cells = _read_cells(args.cells, most=width * height // SMALLEST_CELL) if args.cells else None
    return module.Request(args.seed, width, height, cells, args.class_balance)


def _read_size(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})(?:x(\d{1,6}))?", text)
    sides = tuple(int(side) for side in match.groups(default=match[1])) if match else ()
    if not sides or min(sides) < SMALLEST or max(sides) > LARGEST:
        raise UserError(f"--size {text} must be a side or WIDTHxHEIGHT, each {SMALLEST} to {LARGEST} pixels")
    return sides


def _read_cells(text: str, most: int) -> tuple[int, int]:
    match = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", text)
    low, high = (int(part) for part in match.groups(default=match[1])) if match else (0, 0)
    if not 1 <= low <= high <= most:
        raise UserError(f"--cells {text} must be MIN-MAX, such as 5-30, from 1 to {most} at this --size")
    return low, high


def claim_folder(folder: Path, settings: dict, overwrite: bool) -> None:
    """Note the settings in the folder; UserError when other data are there and `overwrite` is not given."""
    noted = folder / "settings.json"
    text = json.dumps(settings, indent=2)
    if overwrite:
        for name in (".parts", "train", "test"):
            shutil.rmtree(folder / name, ignore_errors=True)
    elif noted.exists() and noted.read_text() != text:
        raise UserError(f"{folder} holds data of other settings ({noted}); choose another --out_dir or --overwrite")
    elif not noted.exists() and any((folder / name).exists() for name in ("train.csv", "train", "test")):
        raise UserError(f"{folder} holds data that this program did not make; choose another --out_dir or --overwrite")
    with atomic(noted) as temporary:
        temporary.write_text(text)


def draw_all(competition: str, folder: Path, request, counts: dict[str, int], jobs: int) -> None:
    """Draw the images that are not there yet, in `jobs` processes of one thread each."""
    tasks = [
        (split, index)
        for split, count in counts.items()
        for index in range(count)
        if not all(path.exists() for path in COMPETITIONS[competition].image_files(folder, request, split, index))
    ]
    work = partial(_draw_one, competition, folder, request)
    bar = partial(tqdm, total=len(tasks), unit="image", disable=not tasks)
    if min(jobs, len(tasks)) <= 1:
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            deque(bar(map(work, tasks)), maxlen=0)
        finally:
            cv2.setNumThreads(threads)
        return
    try:
        with ProcessPoolExecutor(min(jobs, len(tasks)), get_context("spawn"), _start_worker) as pool:
            deque(bar(pool.map(work, tasks)), maxlen=0)
    except BrokenProcessPool:
        raise UserError("a drawing process was killed, perhaps for want of memory: try fewer --jobs") from None


def _start_worker() -> None:
    cv2.setNumThreads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent speaks for all


def _draw_one(competition: str, folder: Path, request, task: tuple[str, int]) -> None:
    COMPETITIONS[competition].write_image(folder, request, *task)


if __name__ == "__main__":
    run(main)
