"""A training step of our loop against a plain PyTorch loop of the same network, batch and precision.

    python benchmarks/training_step.py --arch tf_efficientnet_lite0 --crop_size 112 --batch_size 16 --steps 8
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from augment.crops import dihedral_crop
from common.seeds import rng
from competitions import hpa
from engine.data import Samples
from engine.device import make_fabric
from engine.train import Plan, Progress, _train_epoch
from losses import LOSSES
from models import Classifier, build


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", default="tf_efficientnet_lite0")
    parser.add_argument("--crop_size", type=int, default=112)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--mixed_precision", type=int, default=1)
    args = parser.parse_args()
    fabric = make_fabric("0", bool(args.mixed_precision))
    count = args.steps * args.batch_size
    targets = (rng(0).random((count, 19)) < 0.1).astype(np.float32)
    samples = Samples(
        noise, [str(key) for key in range(count)], targets, dihedral_crop, args.crop_size * 3 // 2, args.crop_size
    )
    rows = {
        "ours": clock(lambda: ours(fabric, args, samples), args.steps),
        "plain loop, channels last": clock(lambda: plain(fabric, args, samples, torch.channels_last), args.steps),
        "plain loop": clock(lambda: plain(fabric, args, samples, torch.contiguous_format), args.steps),
    }
    print(f"{args.arch} at {args.crop_size} px, batches of {args.batch_size} on {fabric.device}")
    for name, seconds in rows.items():
        print(f"{name:28}{seconds * 1000:>9.1f} ms a step{seconds / rows['ours']:>8.2f} x ours")


def noise(key: str, size: int) -> np.ndarray:
    """A picture that costs nothing to read."""
    return np.full((size, size, 4), int(key) % 255, np.uint8)


def clock(make_work, steps: int) -> float:
    """Seconds a step: the second run of the work, so that nothing is timed cold."""
    work = make_work()
    work()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / steps


def ours(fabric, args, samples: Samples):
    model = Classifier(build(args.arch, 19, 4, args.crop_size), LOSSES["BCE"](), hpa.MEAN, hpa.STD)
    model, optimizer = fabric.setup(model, torch.optim.Adam(model.parameters(), lr=1e-4))
    with tempfile.TemporaryDirectory() as folder:
        plan = Plan(Path(folder), {"out_dir": "ours"}, hpa.CLASSES, 1, args.batch_size, 1, 1.0, lambda _: 1e-4, 0, 0)
        return lambda: _train_epoch(fabric, model, optimizer, plan, samples, Progress())


def plain(fabric, args, samples: Samples, memory_format: torch.memory_format):
    device = fabric.device
    net = build(args.arch, 19, 4, args.crop_size).to(device, memory_format=memory_format).train()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    half = device.type == "cuda" and args.mixed_precision
    scaler = torch.amp.GradScaler(enabled=bool(half))
    mean, std = (torch.tensor(values, device=device).view(1, 4, 1, 1) * 255 for values in (hpa.MEAN, hpa.STD))
    criterion = torch.nn.BCEWithLogitsLoss()

    def work() -> None:
        total = 0.0
        for start in range(0, len(samples), args.batch_size):
            items = [samples[1, row] for row in range(start, start + args.batch_size)]
            images = torch.stack([image for image, _, _ in items]).to(device)
            images = ((images.float() - mean) / std).contiguous(memory_format=memory_format)
            targets = torch.stack([target for _, target, _ in items]).to(device)
            with torch.autocast(device.type, torch.float16, enabled=bool(half)):
                loss = criterion(net(images), targets)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            total += loss.item()

    return work


if __name__ == "__main__":
    main()
