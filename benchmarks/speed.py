"""One table of how fast everything is: ours against the straight way, in one run, with the memory of each.

    python benchmarks/speed.py [--quick] [--topics training inference] [--arch class_densenet121_dropout]

Each line is measured in a process of its own, one after another: the best of a few runs on one thread, in CPU time so
that other work on the machine counts little (on a GPU, and for crops and scripts, the time that passes), and the most
memory that the work took beyond what the process held before (a GPU's for networks on a GPU; all of it for scripts).
`times` is the straight way's time (or bytes) in parts of ours. What the straight way is:

labelling   the HPA Cell Segmentator's published steps with scikit-image
mask text   pycocotools, zlib and base64 cell by cell
crops       a file of 768 x 768 x 4 bytes a cell, as the 12th place kept them
inference   eight views, reading and decoding the data once a view
training    a plain PyTorch loop of the same network, batch and precision, with the same options
tables      convertpredictions.py and ensemble.py row by row in plain Python, some images, reckoned for all
mAP         every triple's mask decoded to pixels, loops over detections and truths, some images, reckoned for all

Networks are measured at --crop_size and --batch_size, by default 512 and 16 on a GPU, 128 and 8 on a CPU. With
--quick the scripts' times are mostly those of starting Python.
"""

import argparse
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
for threads in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[threads] = "1"

from common.errors import UserError, run, some  # noqa: E402

# Nothing heavy is imported above the functions: a script that this process starts would count its memory as its own.


class Figure(NamedTuple):
    """What a line of the table says: a value in its unit (ms, s or kB) and memory in MB, NaN where it says nothing."""

    value: float
    megabytes: float = float("nan")


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small, and nothing is compiled")
    parser.add_argument("--topics", nargs="+", default=list(TOPICS), help=f"some of {', '.join(TOPICS)}")
    parser.add_argument("--arch", help="default: class_densenet121_dropout; tf_efficientnet_lite0 with --quick")
    parser.add_argument("--crop_size", type=int)
    parser.add_argument("--batch_size", type=int)
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Measure every way of every topic, print its line as it comes."""
    args = get_args_parser().parse_args(argv)
    unknown = [topic for topic in args.topics if topic not in TOPICS]
    if unknown:
        raise UserError(f"--topics: {some(unknown)} is not known; choose from: {', '.join(TOPICS)}")
    args.arch = args.arch or ("tf_efficientnet_lite0" if args.quick else "class_densenet121_dropout")
    print(f"{'':12}{'':30}{'':>10}{'':6}{'times':>8}{'MB':>9}")
    for topic in args.topics:
        unit, measure, ways = TOPICS[topic]
        chosen = [way for way in ways if not (args.quick and "compiled" in way)]
        first = None
        for way in chosen:
            figure = in_a_process(measure, way, args)
            first = first or figure
            print(
                f"{topic:12}{way:30}{figure.value:10.1f} {unit:5}{figure.value / first.value:8.2f}"
                f"{figure.megabytes:9.0f}", flush=True,
            )  # fmt: skip
    return None


def in_a_process(measure: Callable, way: str, args: argparse.Namespace) -> Figure:
    """`measure(way, args, folder)` in a fresh process with a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        if measure in (tables, mean_average_precision):  # which start processes themselves
            return measure(way, args, Path(folder))
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            return pool.submit(measure, way, args, Path(folder)).result()


def best_of(work: Callable, runs: int = 3, parts: int = 1) -> Figure:
    """Milliseconds a part of the work, the best of some runs after a first one, and the memory that they take, MB."""
    reset_peak()
    before, times = memory("VmRSS"), []
    for _ in range(runs + 1):
        start = now()
        work()
        times.append(now() - start)
    used = gpu_memory() or memory("VmHWM") - before
    return Figure(1000 * min(times[1:]) / parts, used)


def memory(name: str) -> float:
    """A line of /proc/self/status, in MB: VmRSS, what is held now, or VmHWM, the most since the last `reset_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) / 1024


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")
    if on_gpu():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def on_gpu() -> bool:
    """Whether this process has worked on a GPU."""
    torch = sys.modules.get("torch")
    return torch is not None and torch.cuda.is_initialized()


def now() -> float:
    """Seconds: of this process's CPU time, or of the clock when a GPU works."""
    if not on_gpu():
        return time.process_time()
    sys.modules["torch"].cuda.synchronize()
    return time.perf_counter()


def gpu_memory() -> float:
    return sys.modules["torch"].cuda.max_memory_allocated() / 1e6 if on_gpu() else 0.0


def labelling(way: str, args: argparse.Namespace, folder: Path) -> Figure:
    """One image's predictions to cells and nuclei."""
    from segmentator_oracle import Field, oracle, predictions

    from cells.segmentator_labels import label_cells

    side = 512 if args.quick else 2048
    planes = predictions((side, side), 0, Field(cells=max(2, 30 * side**2 // 2048**2)))
    return best_of(lambda: {"ours": label_cells, "straight": oracle}[way](*planes), 1 if way == "straight" else 3)


def mask_text(way: str, args: argparse.Namespace, folder: Path) -> Figure:
    """All mask texts of an image of 30 cells."""
    from benchmarks.mask_text import make_labels
    from cells.masks import encode_label_image, encode_mask

    labels = make_labels(512 if args.quick else 2048, 30)
    ways = {
        "ours": lambda: encode_label_image(labels),
        "straight": lambda: [encode_mask(labels == cell) for cell in range(1, 31)],
    }
    return best_of(ways[way])


def crops(what: str, way: str, args: argparse.Namespace, folder: Path) -> Figure:
    """Writing a cell, reading it at 768 x 768, and its bytes: `what` is write, read or bytes."""
    import cv2

    from benchmarks.crop_store import WAYS, measure, measure_store
    from cells.crops import boxes, cut_cell
    from synthesis.hpa import Request, draw_image

    cv2.setNumThreads(1)
    side = 512 if args.quick else 2048
    image = draw_image(Request(0, side, side, None), "train", 0)
    cells = {label: cut_cell(image.pixels, image.labels, label, box) for label, box in boxes(image.labels).items()}
    keys = [("image", label) for label in cells]
    figures = []

    def work() -> None:
        if way == "ours":
            figures.append(measure_store(keys, list(cells.values()), folder / str(len(figures))))
        else:
            figures.append(measure(WAYS["array of 768"], list(cells.values()), folder))

    used = best_of(work).megabytes
    size, write, read = map(min, zip(*figures, strict=True))
    return Figure({"write": 1000 * write, "read": 1000 * read, "bytes": size / 1000}[what], used)


def inference(way: str, args: argparse.Namespace, folder: Path) -> Figure:
    """Eight views of a cell, from the crop store to the predictions."""
    from benchmarks.inference import prepare

    args = network_sizes(args)
    args.cells, args.workers = 2 * args.batch_size, 0
    predict = prepare(folder, args)[1]["ours" if way == "ours" else "plain"]
    places = (folder / str(number) for number in range(9))  # a new one each time: what is there is not done again
    return best_of(lambda: predict(next(places)), 1, args.cells)


def training(way: str, args: argparse.Namespace, folder: Path) -> Figure:
    """A step of training."""
    from benchmarks.training_step import epoch_of

    args = network_sizes(args)
    args.steps, args.mixed_precision = (20 if on_gpu() else 3), 1
    return best_of(epoch_of(way, args), 2, args.steps)


def network_sizes(args: argparse.Namespace) -> argparse.Namespace:
    """The flags with the sizes that this machine can do in minutes where none are given."""
    import torch

    gpu = torch.cuda.is_available()
    if gpu:
        torch.cuda.init()
    sizes = (64, 4) if args.quick else (512, 16) if gpu else (128, 8)
    given = args.crop_size or sizes[0], args.batch_size or sizes[1]
    return argparse.Namespace(**{**vars(args), "crop_size": given[0], "batch_size": given[1]})


def tables(way: str, args: argparse.Namespace, folder: Path) -> Figure:
    """Three models' predictions of the public test set, averaged and combined: to the submission, seconds."""
    from benchmarks import tables as own

    images, cells, some_images = (20, 300, 5) if args.quick else (559, 14400, 40)
    in_a_fresh_process(own.make_data, folder, images, cells)
    if way == "ours":
        lines = own.run_ours(folder)
        return Figure(sum(line[1] for line in lines), max(line[2] for line in lines))
    seconds, used, done = in_a_fresh_process(plain_tables, folder, some_images)
    return Figure(seconds * cells / done, used)


def plain_tables(folder: Path, images: int) -> tuple[float, float, int]:
    """Seconds, MB and the number of cells that the plain way did."""
    from benchmarks.tables import run_plainly

    start, before = time.perf_counter(), memory("VmRSS")
    done = run_plainly(folder, images)[0]
    return time.perf_counter() - start, memory("VmHWM") - before, done


def mean_average_precision(way: str, args: argparse.Namespace, folder: Path) -> Figure:
    """The score of a submission as large as the public test set's, seconds."""
    from benchmarks import evaluate as own

    images, cells, size = (8, 6, 512) if args.quick else (559, 25, 2048)
    done = images if way == "ours" else 1
    in_a_fresh_process(make_scored, folder, done, cells, size)
    if way == "ours":
        return Figure(*own.timed(folder))
    seconds, used = in_a_fresh_process(plain_score, folder)
    return Figure(seconds * images / done, used)


def make_scored(folder: Path, *numbers: int) -> None:
    import numpy as np

    from benchmarks.evaluate import make_data

    make_data(folder, *numbers, np.random.default_rng(0))


def plain_score(folder: Path) -> tuple[float, float]:
    from benchmarks import evaluate as own

    start, before = time.perf_counter(), memory("VmRSS")
    own.plain_score(folder)
    return time.perf_counter() - start, memory("VmHWM") - before


def in_a_fresh_process(work: Callable, *args):
    """`work(*args)` in a process of its own, so that its memory is not this one's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *args).result()


BOTH = ("ours", "straight")
STEPS = (
    "ours", "plain", "plain, channels last", "ours, fused", "plain, channels last, fused", "ours, compiled, fused",
    "plain, channels last, compiled, fused",
)  # fmt: skip
# topic -> unit, what measures it, the ways, of which the first is what the others are compared with
TOPICS: dict[str, tuple[str, Callable, tuple[str, ...]]] = {
    "labelling": ("ms", labelling, BOTH),
    "mask text": ("ms", mask_text, BOTH),
    "crops write": ("ms", partial(crops, "write"), BOTH),
    "crops read": ("ms", partial(crops, "read"), BOTH),
    "crops bytes": ("kB", partial(crops, "bytes"), BOTH),
    "inference": ("ms", inference, BOTH),
    "training": ("ms", training, STEPS),
    "tables": ("s", tables, BOTH),
    "mAP": ("s", mean_average_precision, BOTH),
}


if __name__ == "__main__":
    run(main)
