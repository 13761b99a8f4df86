"""A training step of our loop against a plain PyTorch loop of the same network, batch and precision.

    python benchmarks/training_step.py --arch tf_efficientnet_lite0 --crop_size 112 --batch_size 16 --steps 8

Each with the options that a user may choose: the fused optimiser, torch.compile, and for the plain loop weights and
images channels-last in memory, which our networks are anyway. --ways ours plain ... measures some of them. The ways
take turns, --rounds times after a first one that does not count, and the best counts: seconds of the clock on a GPU, of
the processor on a CPU, where other programs would be timed, too.
"""

import argparse
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from augment.crops import dihedral_crop
from common.errors import choose, run
from common.seeds import rng
from competitions import hpa
from engine.data import Samples
from engine.device import make_fabric
from engine.optimizers import make_optimizer
from engine.train import Plan, Progress, Run, Task, _train_epoch
from losses import LOSSES
from models import Classifier, build

OPTIONS = {"": {}, ", fused": {"fused": True}, ", compiled": {"compiled": True},
           ", compiled, fused": {"compiled": True, "fused": True}}  # fmt: skip


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="tf_efficientnet_lite0")
    parser.add_argument("--crop_size", type=int, default=112)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--mixed_precision", type=int, default=1)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help=f"some of {'; '.join(WAYS)}")
    return parser


def main(argv: Sequence[str] | None = None) -> int | None:
    """Time the ways in turns, print a table."""
    args = get_args_parser().parse_args(argv)
    device = make_fabric("0", bool(args.mixed_precision)).device
    print(f"{args.arch} at {args.crop_size} px, batches of {args.batch_size} on {device}")
    works = {name: epoch_of(name, args) for name in args.ways}
    rounds = [{name: clock(work) / args.steps for name, work in works.items()} for _ in range(args.rounds + 1)]
    best = {name: min(times[name] for times in rounds[1:]) for name in works}
    for name, seconds in best.items():
        print(f"{name:38}{seconds * 1000:>9.1f} ms a step{seconds / best[args.ways[0]]:>8.2f} x {args.ways[0]}")
    return None


def epoch_of(way: str, args: Namespace) -> Callable[[], None]:
    """What trains an epoch of args.steps batches in one of WAYS, on pictures that cost nothing to read."""
    make = choose(WAYS, way, "--ways")
    torch.manual_seed(0)
    fabric = make_fabric("0", bool(args.mixed_precision))
    count = args.steps * args.batch_size
    targets = (rng(0).random((count, 19)) < 0.1).astype(np.float32)
    keys = [str(key) for key in range(count)]
    samples = Samples(noise, keys, targets, dihedral_crop, args.crop_size * 3 // 2, args.crop_size)
    return make(fabric, args, samples)


def noise(key: str, size: int) -> np.ndarray:
    """A picture that costs nothing to read."""
    return np.full((size, size, 4), int(key) % 255, np.uint8)


def clock(work: Callable[[], None]) -> float:
    """Seconds that the work takes."""
    now = time.perf_counter if torch.cuda.is_available() else time.process_time
    start = now()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return now() - start


def ours(fabric, args: Namespace, samples: Samples, fused: bool = False, compiled: bool = False):
    core = Classifier(build(args.arch, 19, 4, args.crop_size), LOSSES["BCE"](), hpa.MEAN, hpa.STD)
    optimizer = make_optimizer("Adam", core, fused=fused)
    model, optimizer = fabric.setup(torch.compile(core) if compiled else core, optimizer)
    plan = Plan(Path(), {"out_dir": "ours"}, 1, args.batch_size, 1, 1.0, lambda done, history: 1e-4, 0, 0)
    task = Task(core, samples, lambda fabric, model: {}, "")
    return lambda: _train_epoch(Run(fabric, task, plan, Progress(), core, model, optimizer, None, None))


def plain(
    fabric, args: Namespace, samples: Samples, memory_format: torch.memory_format = torch.contiguous_format,
    fused: bool = False, compiled: bool = False,
):  # fmt: skip
    device = fabric.device
    net = build(args.arch, 19, 4, args.crop_size).to(device, memory_format=memory_format).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, fused=fused or None)
    half = device.type == "cuda" and bool(args.mixed_precision)
    scaler = torch.amp.GradScaler(enabled=half)
    mean, std = (torch.tensor(values, device=device).view(1, 4, 1, 1) * 255 for values in (hpa.MEAN, hpa.STD))
    criterion = torch.nn.BCEWithLogitsLoss()
    forward = torch.compile(net) if compiled else net

    def work() -> None:
        total = 0.0
        for start in range(0, len(samples), args.batch_size):
            items = [samples[1, row] for row in range(start, start + args.batch_size)]
            images = torch.stack([image for image, _, _ in items]).to(device)
            images = ((images.float() - mean) / std).contiguous(memory_format=memory_format)
            targets = torch.stack([target for _, target, _ in items]).to(device)
            with torch.autocast(device.type, torch.float16, enabled=half):
                loss = criterion(forward(images), targets)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            total += loss.item()

    return work


def with_options(make: Callable, **more) -> dict[str, Callable]:
    """A way for each of OPTIONS, by the option's name."""
    return {
        name: lambda fabric, args, samples, own=own: make(fabric, args, samples, **own, **more)
        for name, own in OPTIONS.items()
    }


WAYS = {
    **{f"ours{name}": way for name, way in with_options(ours).items()},
    **{f"plain{name}": way for name, way in with_options(plain).items()},
    **{
        f"plain, channels last{name}": way
        for name, way in with_options(plain, memory_format=torch.channels_last).items()
    },
}


if __name__ == "__main__":
    run(main)
