"""A training step of CenterNet and YOLOX against the bare network: forward, a sum as loss, backward.

    python benchmarks/detector_step.py --models centernet:tf_efficientnet_lite0 centernet:resnet34 --size 384 512

Between the two lie drawing the targets and the losses. A third line is the time to find the boxes of one batch.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.seeds import rng
from models.centernet import centernet
from models.yolox import yolox

MAKERS = {
    "centernet": centernet,
    "centernet_fpn": lambda *args: centernet(*args, skips=True),
    "yolox": lambda name, *args: yolox(f"yolox_{name}", *args),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+",
        default=["centernet:tf_efficientnet_lite0", "centernet_fpn:tf_efficientnet_lite0", "centernet:resnet34",
                 "yolox:s"],
    )  # fmt: skip
    parser.add_argument("--size", type=int, nargs=2, default=(384, 512), metavar=("HEIGHT", "WIDTH"))
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--cells", type=int, default=20, help="cells an image")
    parser.add_argument("--steps", type=int, default=4)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    images, targets = batch(args.batch_size, *args.size, args.cells, device)
    print(f"{args.batch_size} images of {args.size[0]} x {args.size[1]}, {args.cells} cells each, on {device}")
    for text in args.models:
        kind, name = text.split(":")
        model = MAKERS[kind](name, 3, 3, (0.5,) * 3, (0.25,) * 3).to(device)
        ours = clock(lambda model=model: step(model, lambda: sum(model(images, targets).values())), args.steps)
        bare = clock(lambda model=model: step(model, lambda: network(model, images)), args.steps)
        model.eval()
        with torch.inference_mode():
            find = clock(lambda model=model: model(images), args.steps)
        print(f"{text:40}{ours:>9.1f} ms a step{bare:>9.1f} bare{ours / bare:>7.3f} x{find:>9.1f} ms to find boxes")


def batch(count: int, height: int, width: int, cells: int, device: torch.device):
    """Random images and cells of 20 to 120 pixels."""
    generator = rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (count, 3, height, width)).astype("uint8")).to(device)
    targets = []
    for _ in range(count):
        centre = generator.random((cells, 2)) * (width, height)
        half = generator.uniform(10, 60, (cells, 2))
        boxes = torch.tensor([*zip(*(centre - half).T, *(centre + half).T, strict=True)], dtype=torch.float32)
        labels = torch.from_numpy(generator.integers(0, 3, cells))
        targets.append({"boxes": boxes.to(device), "labels": labels.to(device)})
    return images, targets


def network(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """A scalar of all that the network alone gives."""
    if hasattr(model, "raw"):
        return model.raw(images)[0].sum()
    return sum(part.sum() for part in model.maps(images))


def step(model: torch.nn.Module, loss) -> None:
    model.train()
    model.zero_grad(set_to_none=True)
    loss().backward()


def clock(work, steps: int) -> float:
    """Milliseconds a call, the best of `steps`, not counting the first; on a CPU those of all its cores together, which
    other programs on the machine hardly change.
    """
    cuda = torch.cuda.is_available()
    now = time.perf_counter if cuda else time.process_time
    seconds = []
    for _ in range(steps + 1):
        start = now()
        work()
        if cuda:
            torch.cuda.synchronize()
        seconds.append(now() - start)
    return min(seconds[1:]) * 1000


if __name__ == "__main__":
    main()
