"""Find the cells of all images: the cells table, the crop store and the resized images.

    python segment.py --metadata DATA/train.csv --root_dir DATA/train --meta_dir META --crop_dir CROPS --img_dir IMGS \\
        --cache_dir CACHE

The same with DATA/sample_submission.csv and DATA/test. What it writes is said in docs/formats.md. An image that cannot
be used is skipped and named at the end (exit code 1). The same command again does only what is missing or changed: an
image is done again when its files or a flag that its results depend on differ from last time, or one of its outputs is
gone. What is done is noted in --cache_dir: runs with other finders or flags need another one, and other --crop_dir.

Every cell that the finder sees is a row of the cells table. Its column `keep` is 0 for those that --edge_rule drops:
they are not in the crop store, and no later stage looks at them.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

import competitions
from cells.borders import RULES
from cells.finders import FINDERS, Finder, refuse_other_flags
from cells.images import image_folder
from cells.segmenting import Job, Size, read_image, segment_image
from common.errors import UserError, at_least, choose, run
from common.files import atomic, remove_leftovers, safe_name, sole_writer
from common.say import say
from common.workers import WorkerDied, count_workers, run_each
from engine.clock import Clock, in_time
from engine.settings import resolve

BATCH = 8  # images a call of a finder's network


def get_args_parser() -> argparse.ArgumentParser:
    """The flags and their defaults."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--metadata", required=True, help="train.csv or sample_submission.csv: which images")
    parser.add_argument("--root_dir", required=True, help="folder of the images' files")
    parser.add_argument("--meta_dir", required=True, help="folder for the cells table")
    parser.add_argument("--crop_dir", required=True, help="folder for the crop store")
    parser.add_argument("--img_dir", required=True, help="folder for the resized images")
    parser.add_argument("--cache_dir", required=True, help="folder for label images and what is done")
    competitions.add_flags(parser)
    parser.add_argument("--dataset", help="name of this set of images; default: train with labels, test without")
    add_finder_flags(parser)
    parser.add_argument("--img_size", type=int, default=768, help="side of the resized images, pixels; default: 768")
    parser.add_argument("--gpu_id", default="0", help="networks: a GPU, or cpu; without any GPU the CPU is used")
    parser.add_argument("--workers", type=int, help="processes; 0 works in this one; default: one a core")
    parser.add_argument("--overwrite", action="store_true", help="do all images again")
    return parser


def add_finder_flags(parser: argparse.ArgumentParser) -> None:
    """The flags on which it depends what is found and written."""
    parser.add_argument(
        "--finder", help=f"one of: {', '.join(FINDERS)}; default: the one that the given weights or truth belong to, "
        "else watershed",
    )  # fmt: skip
    parser.add_argument("--nuc_model", help="hpacellseg: weights of the nuclei's network, dpn_unet_nuclei_v1.pth")
    parser.add_argument("--cell_model", help="hpacellseg: weights of the cells' network, dpn_unet_cell_3ch_v1.pth")
    parser.add_argument(
        "--label_scale", type=float, default=1.0,
        help="hpacellseg: share of the image's size at which to label; 0.25 is faster and less exact; default: 1",
    )  # fmt: skip
    parser.add_argument("--truth", help="truth: the table of labelled cells; default: --metadata")
    parser.add_argument("--weights", help="network: checkpoints of train.py, joined by commas")
    parser.add_argument("--augment", default="default", help="network: default, all, or views joined by commas")
    parser.add_argument(
        "--zooms", default="1", help="network: how much larger than at its training to look, too, joined by commas "
        "(0.8,1,1.25), in each view; default: 1",
    )  # fmt: skip
    parser.add_argument(
        "--fuse", default="wbf", help="network: how the finds of several networks and views become one: wbf (weighted "
        "boxes), centre (centres within --fuse_distance), nms; masks: wbf; class maps are averaged; default: wbf",
    )  # fmt: skip
    parser.add_argument("--fuse_iou", type=float, help="wbf, nms: boxes of one cell overlap more; default: 0.55 *")
    parser.add_argument("--fuse_distance", type=float, default=12, help="centre: pixels between centres of one cell")
    parser.add_argument("--score_threshold", type=float, help="network: cells with a lower score go; default: 0.05 *")
    parser.add_argument(
        "--nms_iou", type=float,
        help="network: of two that overlap more the better stays; default: 0.5 (*: or what the competition published)",
    )
    parser.add_argument(
        "--max_cells", type=int,
        help="network, of detectors: at most so many cells an image; default: 300, or the competition's most",
    )
    parser.add_argument(
        "--tile", type=int, default=0, help="network: look at tiles of so many pixels a side, each at the size that it "
        "was trained at; 0: at whole images",
    )  # fmt: skip
    parser.add_argument(
        "--edge_rule", choices=[*RULES, "none"],
        help="which border cells to drop: published (a nucleus under .5 of the mean, or a cell under .4 with a nucleus "
        "under .7), its halves nucleus and both, or none; default: published for hpa, for which it was, else none",
    )  # fmt: skip


class Outcome(NamedTuple):
    """What a run left: the cells table, with how many images and kept cells; why images were skipped, by ImageID; and
    the images for which there was no time.
    """

    table: Path
    images: int
    cells: int
    skipped: dict[str, str]
    left: list[str]


def main(argv: Sequence[str] | None = None) -> int | None:
    """Do what is not done, then write the table of all that is."""
    return 1 if segment(get_args_parser().parse_args(argv)).skipped else None


def segment(args: argparse.Namespace, clock: Clock | None = None) -> Outcome:
    """The same with the flags as `get_args_parser` gives them; by the clock's end it stops and writes what it has."""
    sizes = read_sizes(args)
    if Path(args.meta_dir).is_file():
        raise UserError(f"--meta_dir {args.meta_dir} is a file; a folder is right")
    finder = make_finder(args)
    if finder.about:
        say(finder.about)
    job, workers = make_job(args, finder), count_workers(args.workers)
    with ExitStack() as stack:
        for folder in sorted({path.resolve() for path in (job.cache, job.crops, job.images)}):
            stack.enter_context(sole_writer(folder))
        state = finder.state or (lambda image: None)
        marks = {image: job.fingerprint(image, size, state(image)) for image, size in sizes.items()}
        todo = [image for image, mark in marks.items() if args.overwrite or not job.is_done(image, mark)]
        tasks = ((job, image, sizes[image], marks[image], found) for image, found in predictions(job, finder, todo))
        window = max(workers, 1) + 1 if finder.predict else 2 * max(workers, 1)  # predictions may be large
        tasks = in_time(tasks, clock or Clock(), window + (BATCH if finder.predict else 0))
        failed = segment_all(tasks, len(todo), workers, window)
        left = [image for image in todo if image not in failed and not job.is_done(image, marks[image])]
        done = [image for image in marks if image not in {*failed, *left}]
        table = Path(args.meta_dir) / f"{Path(args.metadata).stem}_cell.csv"
        cells, kept = write_cells_table(table, job, done)
    say(f"{table}: {cells} cells in {len(done)} images, {cells - kept} of them dropped at the border")
    for image, reason in sorted(failed.items()):
        say(f"skipped {image}: {reason}", sys.stderr)
    if failed:
        say(f"{len(failed)} of {len(marks)} images were skipped; mend them and run the same command again", sys.stderr)
    return Outcome(table, len(done), kept, failed, left)


def make_finder(args: argparse.Namespace) -> Finder:
    """The finder of the flags of `add_finder_flags`; those that are not given are filled in, in place."""
    args.finder = args.finder or default_finder(args)
    choose(FINDERS, args.finder, "--finder")
    refuse_other_flags(args, get_args_parser().get_default)
    resolve(args, finding_defaults(args))
    at_least(args, {"max_cells": 1, "tile": 0, "fuse_distance": 0})
    for name in ("score_threshold", "nms_iou", "fuse_iou"):
        if not 0 <= getattr(args, name) <= 1:
            raise UserError(f"--{name} {getattr(args, name)} must be from 0 to 1")
    return FINDERS[args.finder](args)


def finding_defaults(args: argparse.Namespace) -> dict:
    """Thresholds that are not given: those published for the competition, if it is about its own classes; else ours.
    The rule of cells at the border is the competition's in any case.
    """
    competition = competitions.get(args.competition)
    published = {} if args.classes else getattr(competition, "FINDING_DEFAULTS", {})
    rule = getattr(competition, "EDGE_RULE", "none")
    return {"score_threshold": 0.05, "nms_iou": 0.5, "fuse_iou": 0.55, "edge_rule": rule} | published


def default_finder(args: argparse.Namespace) -> str:
    """The finder that the given files belong to."""
    if args.weights:
        return "network"
    if args.truth:
        return "truth"
    if args.nuc_model or args.cell_model:
        return "hpacellseg"
    finder = getattr(competitions.get(args.competition, args.classes), "DEFAULT_FINDER", None)
    if not finder:
        raise UserError(f"--finder must be given for {args.competition}: otsu, texture, truth, or --weights")
    return finder


def read_sizes(args: argparse.Namespace) -> dict[str, Size]:
    """The images to segment and their (width, height); fills in --dataset.

    UserError when there is no image or an ID cannot be a file's name.
    """
    metadata = competitions.get(args.competition, args.classes).read_metadata(args.metadata)
    if metadata.empty:
        raise UserError(f"{args.metadata} has no images")
    for image_id in metadata["ID"]:
        safe_name(image_id, f"{args.metadata}: ID")
    args.dataset = safe_name(args.dataset or ("train" if "Label" in metadata else "test"), "--dataset")
    if "ImageWidth" not in metadata:
        return dict.fromkeys(metadata["ID"])
    sizes = metadata[["ImageWidth", "ImageHeight"]].to_numpy().tolist()
    return {image: (width, height) for image, (width, height) in zip(metadata["ID"], sizes, strict=True)}


def make_job(args: argparse.Namespace, finder: Finder) -> Job:
    """The run's settings and folders, checked."""
    at_least(args, {"img_size": 1})
    settings = {name: getattr(args, name) for name in ("competition", "classes", "finder", "edge_rule", "img_size")}
    return Job(
        label=finder.label,
        settings=settings | (finder.settings or {}),
        competition=competitions.get(args.competition, args.classes),
        edge_rule=args.edge_rule,
        img_size=args.img_size,
        root=image_folder(args.root_dir, "--root_dir"),
        cache=Path(args.cache_dir) / args.dataset,
        crops=Path(args.crop_dir) / args.dataset,
        images=Path(args.img_dir) / args.dataset,
    )


def predictions(job: Job, finder: Finder, images: Sequence[str]) -> Iterator[tuple[str, object]]:
    """Each image and what the finder says of it: its network, or what it knows by the ID; else None."""
    if finder.predict is None:
        yield from ((image, finder.known(image) if finder.known else None) for image in images)
        return
    for first in range(0, len(images), BATCH):
        batch = images[first : first + BATCH]
        pixels = {image: array for image in batch if (array := try_read(job, image)) is not None}
        found = dict(zip(pixels, finder.predict(list(pixels.values())), strict=True)) if pixels else {}
        yield from ((image, found.get(image)) for image in batch)


def try_read(job: Job, image_id: str) -> np.ndarray | None:
    """An image, or None: then the worker that wants it finds out why."""
    try:
        return read_image(job, image_id)
    except UserError:
        return None


def segment_all(tasks: Iterator[tuple], total: int, workers: int, window: int) -> dict[str, str]:
    """Segment the images of `tasks`, at most `window` under way: ImageID -> why it had to be skipped. OSError when a
    disk fails.
    """
    failed = {}
    ended = closing(run_each(segment_image, tasks, workers, window))
    with tqdm(total=total, desc="segment", unit="image") as bar, ended as ends:
        for (_, image, *_), error in ends:
            bar.update()
            if isinstance(error, OSError):  # of writing: the next image would fail, too
                raise error
            if error is not None:
                plain = isinstance(error, (UserError, WorkerDied))
                failed[image] = str(error) if plain else f"{type(error).__name__}: {error}"
    return failed


def write_cells_table(path: Path, job: Job, images: Sequence[str]) -> tuple[int, int]:
    """Write the rows of `images`, in this order, as one table; the numbers of its cells and of those that are kept.

    The rows are copied as they are: the whole table of the competition is larger than some machines' memory.
    """
    cells = kept = 0
    remove_leftovers(path.parent, path.stem)
    with atomic(path) as temporary, temporary.open("wb") as table:
        table.write(",".join(job.columns).encode() + b"\n")
        for image in images:
            with job.outputs(image)["rows"].open("rb") as rows:
                for line in islice(rows, 2, None):  # after the fingerprint and the header
                    table.write(line)
                    cells += 1
                    kept += line.endswith(b",1\n")
    return cells, kept


if __name__ == "__main__":
    run(main)
