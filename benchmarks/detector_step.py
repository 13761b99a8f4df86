"""A training step of the finders' networks against the plain network: forward, a sum as loss, backward.

    python benchmarks/detector_step.py --models centernet:tf_efficientnet_lite0 unet:resnet34 --size 384 512

Between the two lie drawing the targets and the losses; the plain Mask R-CNN is torchvision's own step with the same
parts. The last column is the time to find the cells of one batch.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.transform import GeneralizedRCNNTransform

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.seeds import rng
from models.attention_unet import attention_unet
from models.centernet import centernet
from models.mask_rcnn import STRIDES, MaskRCNN, mask_rcnn, to_parts
from models.pyramid import feature_maps
from models.yolox import yolox

MAKERS = {
    "centernet": centernet,
    "centernet_fpn": lambda *args: centernet(*args, skips=True),
    "unet": attention_unet,
    "maskrcnn": mask_rcnn,
    "yolox": lambda name, *args: yolox(f"yolox_{name}", *args),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+",
        default=["centernet:tf_efficientnet_lite0", "centernet_fpn:tf_efficientnet_lite0", "centernet:resnet34",
                 "yolox:s", "unet:resnet34", "maskrcnn:resnet34"],
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
        truth = class_maps(targets, *args.size) if kind == "unet" else targets
        ours = clock(
            lambda model=model, truth=truth: step(model, lambda: sum(model(images, truth).values())), args.steps
        )
        bare = clock(lambda model=model: step(model, lambda: plain(model, images, targets)), args.steps)
        model.eval()
        with torch.inference_mode():
            find = clock(lambda model=model: model(images), args.steps)
        print(f"{text:40}{ours:>9.1f} ms a step{bare:>9.1f} plain{ours / bare:>7.3f} x{find:>9.1f} ms to find cells")


def batch(count: int, height: int, width: int, cells: int, device: torch.device):
    """Random images and cells of 20 to 120 pixels; a cell's mask is its box."""
    generator = rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (count, 3, height, width)).astype("uint8")).to(device)
    targets = []
    for _ in range(count):
        centre = generator.random((cells, 2)) * (width, height)
        half = generator.uniform(10, 60, (cells, 2))
        boxes = torch.tensor([*zip(*(centre - half).T, *(centre + half).T, strict=True)], dtype=torch.float32)
        labels = torch.from_numpy(generator.integers(0, 3, cells))
        masks = torch.zeros(cells, height, width, dtype=torch.uint8)
        for mask, (x1, y1, x2, y2) in zip(masks, boxes.round().int().clip(0).tolist(), strict=True):
            mask[y1:y2, x1:x2] = 1
        target = {"boxes": boxes.clip(0, max(height, width)), "labels": labels, "masks": masks}
        targets.append({name: value.to(device) for name, value in target.items()})
    return images, targets


def class_maps(targets: list[dict[str, torch.Tensor]], height: int, width: int) -> torch.Tensor:
    """The targets as class maps (N, height, width) of three classes and the background."""
    maps = torch.full((len(targets), height, width), 3, device=targets[0]["masks"].device)
    for own, target in zip(maps, targets, strict=True):
        for mask, label in zip(target["masks"], target["labels"], strict=True):
            own[mask > 0] = label
    return maps


def plain(model: nn.Module, images: torch.Tensor, targets: list[dict[str, torch.Tensor]]) -> torch.Tensor:
    """A scalar of all that the network alone gives."""
    if isinstance(model, MaskRCNN):
        targets = [to_parts(target) for target in targets]
        return sum(torchvisions_own(model, images.shape[2:])(list(images / 255), targets).values())
    if hasattr(model, "raw"):
        return model.raw(images)[0].sum()
    if hasattr(model, "logits"):
        return model.logits(((images.float() - model.mean) / model.std).to(memory_format=torch.channels_last)).sum()
    return sum(part.sum() for part in model.maps(images))


def torchvisions_own(model: MaskRCNN, shape: Sequence[int]) -> nn.Module:
    """Our parts as torchvision puts them together, for images of this height and width."""

    class Pyramid(nn.Module):
        out_channels = 256

        def forward(self, images):
            maps = feature_maps(model.backbone, images)
            return model.pyramid({str(level): maps[stride] for level, stride in enumerate(STRIDES)})

    size = GeneralizedRCNNTransform(min(shape), max(shape), (0.5,) * 3, (0.25,) * 3)
    return GeneralizedRCNN(Pyramid(), model.rpn, model.roi_heads, size)


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
