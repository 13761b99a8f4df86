"""Make a competition-shaped data set: images, labels, and the truth that a competition keeps to itself.

    python synthesize.py --competition hpa --out_dir DATA --train 40 --test 10 --size 1024 --seed 1 --jobs 2

writes the images and tables as the competition has them, and tables that training must not see: the truth of the test
images (docs/synthetic.md says which files each competition gets). The same seed and size give the same bytes whatever
--jobs. Run again after an interruption, or with a larger --train or --test, and only what is missing is drawn.
"""

import argparse
import json
import re
import shutil
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import cv2
from tqdm import tqdm

from common.errors import UserError, choose, run
from common.files import atomic, sole_writer
from common.workers import WorkerDied, run_each
from synthesis import cytologia, hpa, neurons, pannuke, riva
from synthesis.labels import BALANCES

COMPETITIONS = {"hpa": hpa, "riva": riva, "cytologia": cytologia, "pannuke": pannuke, "neurons": neurons}
SPLITS = ("train", "val", "test")
SMALLEST, LARGEST = 128, 8192  # pixels a side
SMALLEST_CELL = 400  # pixels of the image for each cell


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--competition", default="hpa", help=f"one of: {', '.join(COMPETITIONS)}")
    parser.add_argument("--out_dir", type=Path, required=True, help="folder to write")
    parser.add_argument("--train", type=int, help="number of training images; default: 40 (pannuke: 60 tiles)")
    parser.add_argument("--val", type=int, help="number of validation images, where the competition has them (riva: 8)")
    parser.add_argument("--test", type=int, help="number of test images; default: 10")
    parser.add_argument("--size", help="side in pixels, or WIDTHxHEIGHT; default: the competition's own")
    parser.add_argument("--cells", help="MIN-MAX cells an image; default: as many as real images of this area have")
    parser.add_argument(
        "--class_balance", help="flat: every class occurs; natural: as often as really (default: but for hpa)"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes that draw at the same time")
    parser.add_argument("--overwrite", action="store_true", help="remove the images in --out_dir first")
    return parser


def main(argv: list[str] | None = None) -> int | None:
    args = get_args_parser().parse_args(argv)
    module = choose(COMPETITIONS, args.competition, "--competition")
    counts = read_counts(args, module)
    request = read_request(args, module)
    settings = {"competition": args.competition, "version": module.VERSION, **asdict(request)}
    with sole_writer(args.out_dir):
        claim_folder(args.out_dir, settings, args.overwrite)
        for left_over in args.out_dir.rglob(".*.tmp*"):  # of a run that was killed
            left_over.unlink()
        draw_all(args.competition, args.out_dir, request, counts, args.jobs)
        cells = module.write_tables(args.out_dir, request, counts)
    for split, count in counts.items():
        print(f"{split}: {count} images, {cells[split]} cells in {args.out_dir}")  # noqa: T201


def read_counts(args: argparse.Namespace, module) -> dict[str, int]:
    """The number of images of each split that the competition has; UserError names the flag that is wrong."""
    counts = dict(module.COUNTS)
    for split in SPLITS:
        count = getattr(args, split)
        if count is None:
            continue
        if split not in counts:
            raise UserError(f"--{split} is not for {args.competition}, which has only {', '.join(counts)}")
        if count < 0:
            raise UserError(f"--{split} {count} must be 0 or more")
        counts[split] = count
    if not any(counts.values()):
        flags = " ".join(f"--{split} 0" for split in counts)
        raise UserError(f"{flags} asks for no image; one of them must be 1 or more")
    return counts


def read_request(args: argparse.Namespace, module):
    """The flags as the module's Request; UserError names the flag that is wrong."""
    for flag, lowest in (("seed", 0), ("jobs", 1)):
        if getattr(args, flag) < lowest:
            raise UserError(f"--{flag} {getattr(args, flag)} must be {lowest} or more")
    balance = args.class_balance or module.BALANCE
    choose(dict.fromkeys(BALANCES), balance, "--class_balance")
    width, height = _read_size(args.size or module.SIZE)
    cells = _read_cells(args.cells, most=width * height // SMALLEST_CELL) if args.cells else None
    return module.Request(args.seed, width, height, cells, balance)


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
    outputs = [folder / name for module in COMPETITIONS.values() for name in (".parts", *module.OUTPUTS)]
    if overwrite:
        for path in outputs:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    elif noted.exists() and noted.read_bytes() != text.encode():
        raise UserError(f"{folder} holds data of other settings ({noted}); choose another --out_dir or --overwrite")
    elif not noted.exists() and any(path.exists() for path in outputs):
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
    workers, threads = min(jobs, len(tasks)), cv2.getNumThreads()
    ended = closing(run_each(partial(_draw_one, competition, folder, request), tasks, workers if workers > 1 else 0))
    try:
        with tqdm(total=len(tasks), desc="draw", unit="image", disable=not tasks) as bar, ended as ends:
            for _, error in ends:
                if isinstance(error, WorkerDied):
                    raise UserError("a drawing process was killed, perhaps for want of memory: try fewer --jobs")
                if error is not None:
                    raise error
                bar.update()
    finally:
        cv2.setNumThreads(threads)


def _draw_one(competition: str, folder: Path, request, split: str, index: int) -> None:
    cv2.setNumThreads(1)
    COMPETITIONS[competition].write_image(folder, request, split, index)


if __name__ == "__main__":
    run(main)
