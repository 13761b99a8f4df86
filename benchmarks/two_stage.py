"""Detector and classifier from the images' files to each cell's probabilities, against the networks' own time.

    python benchmarks/two_stage.py --images 48
    python benchmarks/two_stage.py --images 200 --detector yolox_s --detector_size 640 \\
        --classifier tf_efficientnetv2_m --classifier_size 512

Ours: segment.py (read, find, cut the crops of an image at once, write them) and test.py (read the crops, classify), as
the recipes call them. The plain way: image by image, and for each of its cells the image is read again, cut and
classified. Networks have random weights; on a CPU the seconds are those of all its cores together, which other programs
on the machine hardly change.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import segment
import synthesize
import test as predict
from cells.crops import cut_box, resize
from cells.network_finder import open_network, predict_view
from cells.pieces import to_input
from competitions import Competition, cytologia
from engine import checkpoints
from engine.data import channels_first
from engine.device import make_fabric
from losses import build_loss
from models import Classifier, build, build_detector

COMPETITION = Competition("cytologia")
OWN = ["--competition", "cytologia"]


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32)
    parser.add_argument("--cells", type=int, default=2, help="that are found in an image")
    parser.add_argument("--detector", default="centernet_fpn_tf_efficientnet_lite0")
    parser.add_argument("--detector_size", type=int, default=416)
    parser.add_argument("--classifier", default="tf_efficientnet_lite0")
    parser.add_argument("--classifier_size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=0)
    return parser


def main(argv: list[str] | None = None) -> None:
    args = get_args_parser().parse_args(argv)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        detector = write_networks(folder, args)
        with redirect_stdout(StringIO()):
            made = ["--out_dir", str(folder), "--train", "0", "--test", str(args.images), "--cells", "2"]
            synthesize.main([*OWN, *made])
            (folder / "first.csv").write_text("".join((folder / "test.csv").open().readlines()[:2]))
            run_ours(folder / "warm", folder, "first", detector, args)
        print(f"{args.images} images, {args.detector} at {args.detector_size} px, {args.classifier} at "
              f"{args.classifier_size} px, on {make_fabric('0', True).device}")  # fmt: skip
        print(f"{'':36}{'s':>8}{'networks':>10}{'ms an image':>13}{'reads an image':>16}")
        one, out = folder / "one", folder / "out"
        report("ours, the first image alone", lambda: run_ours(one, folder, "first", detector, args), args, 1)
        ours = report("ours: segment.py, test.py", lambda: run_ours(out, folder, "test", detector, args), args)
        plain = report("plain: a reading a cell", lambda: run_plainly(folder, detector, args), args)
    assert ours == plain, f"{ours} and {plain} cells"


def write_networks(folder: Path, args: argparse.Namespace) -> str:
    """Checkpoints of both networks as train.py leaves them; the detector's path."""
    torch.manual_seed(0)
    mean, std = COMPETITION.MEAN, COMPETITION.STD
    common = {
        "competition": COMPETITION.name, "in_channels": 3, "loss": "CrossEntropy", "cell": "cell", "split_name": "none",
    }  # fmt: skip
    sizes = {"img_size": args.detector_size, "crop_size": args.detector_size}
    settings = {"arch": args.detector, "num_classes": 1, **sizes, **common}
    weights = build_detector(args.detector, 1, 3, mean, std).state_dict()
    path = folder / "detector.pth"
    checkpoints.save({"model": weights, "settings": settings, "epoch": 1}, path)
    sizes = {"img_size": args.classifier_size, "crop_size": args.classifier_size}
    settings = {"arch": args.classifier, "num_classes": 23, **sizes, **common}
    weights = classifier(args).state_dict()
    best = checkpoints.run_folder(folder, "Classes", 0) / "best.pth"
    best.parent.mkdir(parents=True)
    checkpoints.save({"model": weights, "settings": settings, "epoch": 1}, best)
    return str(path)


def classifier(args: argparse.Namespace) -> Classifier:
    net = build(args.classifier, 23, 3, args.classifier_size)
    return Classifier(net, build_loss("CrossEntropy", np.ones(23)), COMPETITION.MEAN, COMPETITION.STD)


def run_ours(out: Path, data: Path, table: str, detector: str, args: argparse.Namespace) -> int:
    """The two scripts for the images of a table; how many cells they found."""
    folders = [word for name in ("meta", "crop", "img", "cache") for word in (f"--{name}_dir", str(out / name))]
    segment.main(
        [*OWN, *folders, "--metadata", str(data / f"{table}.csv"), "--root_dir", str(data / "test"),
         "--dataset", "test", "--weights", detector,
         "--score_threshold", "0", "--max_cells", str(args.cells), "--img_size", "64", "--workers", str(args.workers)]
    )  # fmt: skip
    predict.main(
        [*OWN, "--base_dir", str(data), "--out_dir", "Classes", "--cellorimage", "cell", "--img_dir", str(out / "crop"),
         "--predictions_path", str(out), "--workers", str(args.workers)]
    )  # fmt: skip
    return len(pd.read_csv(out / "meta" / f"{table}_cell.csv"))


@torch.inference_mode()
def run_plainly(data: Path, detector: str, args: argparse.Namespace) -> int:
    """The same, reading an image for itself and again for each of its cells; how many cells there are."""
    fabric = make_fabric("0", True)
    model, settings = open_network(detector, COMPETITION, fabric)
    model.threshold = 0.0
    namer = fabric.setup(classifier(args)).eval()
    cells = 0
    for path in sorted((data / "test").iterdir()):
        image = cytologia.read_rgb(path)
        scale = settings["img_size"] / max(image.shape)
        size = tuple(round(side * scale) for side in image.shape[:2])
        canvas = tuple(-(-side // 32) * 32 for side in size)
        found = predict_view(model, to_input(image, size, canvas, COMPETITION)[None].to(fabric.device), "default")[0]
        for box in found["boxes"][: args.cells] / scale:
            crop = resize(cut_box(cytologia.read_rgb(path), box, COMPETITION.CROP_MARGIN), args.classifier_size)
            namer(channels_first(crop)[None].to(fabric.device))["probs"].cpu()
            cells += 1
    return cells


def report(name: str, work: Callable[[], int], args: argparse.Namespace, images: int | None = None) -> int:
    """Do the work, print its time, the share of the networks' forward passes in it and how often images are read."""
    inside = {"seconds": 0.0}
    kinds = {type(build_detector(args.detector, 1, 3, COMPETITION.MEAN, COMPETITION.STD)), Classifier}
    with ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(mock.patch.object(kind, "forward", timed(kind.forward, inside)))
        reads = stack.enter_context(mock.patch.object(cytologia, "read_rgb", wraps=cytologia.read_rgb))
        stack.enter_context(redirect_stdout(StringIO()))
        start = now()
        cells = work()
        seconds = now() - start
    share, images = inside["seconds"] / seconds, images or args.images
    print(f"{name:36}{seconds:>8.2f}{share:>10.1%}{seconds / images * 1000:>13.1f}"
          f"{reads.call_count / images:>16.1f}")  # fmt: skip
    return cells


def timed(forward: Callable, inside: dict[str, float]) -> Callable:
    def passed(self, *inputs):
        start = now()
        out = forward(self, *inputs)
        inside["seconds"] += now() - start
        return out

    return passed


def now() -> float:
    """Seconds: of the clock with a GPU, else of this process on all cores."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


if __name__ == "__main__":
    main()
