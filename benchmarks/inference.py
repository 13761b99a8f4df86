"""Eight-view inference: how much of the time is not the network's, against a loop that reads the data once a view.

    python benchmarks/inference.py --cells 16 --arch class_densenet121_dropout --crop_size 512
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from augment.crops import random_crop
from augment.views import VIEWS, apply_view
from cells.store import write_shard
from common.seeds import rng
from competitions import hpa
from engine.data import Samples
from engine.device import make_fabric
from engine.predict import predict_views
from engine.samples import CropReader
from losses import LOSSES
from models import Classifier, build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=16)
    parser.add_argument("--arch", default="class_densenet121_dropout")
    parser.add_argument("--crop_size", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        model, ways = prepare(Path(folder), args)
        inside = Stopwatch(model)
        ours = clock(lambda: ways["ours"](Path(folder, "out")))
        network = inside.seconds
        plain = clock(lambda: ways["plain"](Path(folder, "out")))
    print(f"{args.arch} at {args.crop_size} px, {args.cells} cells x 8 views on {model.mean.device}")
    print(f"{'':32}{'seconds':>9}{'outside the network':>21}")
    print(f"{'ours: read once for all views':32}{ours:>9.2f}{1 - network / ours:>20.1%}")
    print(f"{'plain: read once a view':32}{plain:>9.2f}{1 - (inside.seconds - network) / plain:>20.1%}")


def prepare(folder: Path, args: argparse.Namespace) -> tuple[torch.nn.Module, dict[str, Callable[[Path], None]]]:
    """The network, and what predicts all views of args.cells cells: `ours` into a folder; `plain` keeps nothing."""
    fabric = make_fabric("0", True)
    net = build(args.arch, 19, 4, args.crop_size)
    model = fabric.setup(Classifier(net, LOSSES["BCE"](), hpa.MEAN, hpa.STD))
    keys = make_cells(folder / "test", args.cells)
    samples = Samples(CropReader([folder / "test"]), keys, None, random_crop, 768, args.crop_size, seed=1)
    ways = {
        "ours": lambda out: run_ours(fabric, model, samples, out, args),
        "plain": lambda out: run_plain(fabric, model, samples, args.batch_size),
    }
    return model.module, ways


class Stopwatch:
    """Sums the seconds inside a network's forward passes."""

    def __init__(self, model: torch.nn.Module):
        self.seconds = 0.0
        model.register_forward_pre_hook(lambda *_: self._add(-1))
        model.register_forward_hook(lambda *_: self._add(1))

    def _add(self, sign: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds += sign * time.perf_counter()


def clock(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def make_cells(folder: Path, count: int) -> list[str]:
    """Crops as large and as noisy as a cell of a 2048 px image, eight an image."""
    keys = []
    for image in range(-(-count // 8)):
        cells = range(1, min(8, count - 8 * image) + 1)
        crops = {cell: rng(image, cell).gamma(2, 12, (420, 420, 4)).clip(0, 255).astype(np.uint8) for cell in cells}
        write_shard(folder / f"image{image}.zip", crops)
        keys += [f"image{image}+{cell}" for cell in cells]
    return keys


def run_ours(fabric, model, samples: Samples, out: Path, args) -> None:
    files = {view: out / f"{view}_seed1" / "prob_test.npz" for view in VIEWS}
    predict_views(fabric, model, samples, files, "", args.batch_size, args.workers, "ours")


@torch.inference_mode()
def run_plain(fabric, model, samples: Samples, batch_size: int) -> None:
    model.eval()
    for view in VIEWS:
        for start in range(0, len(samples), batch_size):
            images = [samples[0, row][0] for row in range(start, min(start + batch_size, len(samples)))]
            model(apply_view(torch.stack(images).to(fabric.device), view))["probs"].cpu().numpy()


if __name__ == "__main__":
    main()
