"""All cells of an image from one pass of the network, against a pass for each cell's crop.

    python benchmarks/mask_pooled.py --cells 20 --arch densenet121 --img_size 768 --crop_size 512

Reading and decoding are left out: the network's seconds an image, and what of them the pooling by masks is.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common.seeds import rng
from competitions import hpa
from engine.device import make_fabric
from losses import LOSSES
from models import Classifier, MaskPooled, build
from models.mask_pooled import cover, pool_masks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=20, help="an image; the competition's mean is 21.7")
    parser.add_argument("--arch", default="densenet121")
    parser.add_argument("--img_size", type=int, default=768)
    parser.add_argument("--crop_size", type=int, default=512, help="of the single cells")
    parser.add_argument("--batch_size", type=int, default=8, help="cells a pass")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--gpu_id", default="0")
    args = parser.parse_args()
    fabric = make_fabric(args.gpu_id, True)
    one, each = (
        fabric.setup(kind(build(arch, 19, 4, size), LOSSES["BCE"](), hpa.MEAN, hpa.STD)).eval()
        for kind, arch, size in (
            (MaskPooled, f"pooled_{args.arch}", args.img_size),
            (Classifier, f"class_{args.arch}_dropout", args.crop_size),
        )
    )
    images, crops = make_image(args.cells, args.img_size), random_pixels(args.cells, args.crop_size)
    images, crops = {name: batch.to(fabric.device) for name, batch in images.items()}, crops.to(fabric.device)
    maps = one.module.net.features(one.module.normalised(images["images"])).detach()
    counts = torch.tensor([args.cells], device=fabric.device)

    def pool() -> None:
        pool_masks(maps, cover(images["labels"].long(), counts, *maps.shape[2:]), counts)

    ours = clock(lambda: one(images), args.repeats)
    pooling = clock(pool, args.repeats)
    plain = clock(lambda: [each(part) for part in crops.split(args.batch_size)], args.repeats)
    print(f"{args.arch}, an image with {args.cells} cells, on {fabric.device}: seconds, the best of {args.repeats}")
    print(f"{f'ours: the image at {args.img_size} px':36}{ours:>9.4f}   of these pooling {pooling:.4f}")
    print(f"{f'plain: each cell at {args.crop_size} px':36}{plain:>9.4f}   {plain / ours:.1f} times ours")


def random_pixels(count: int, size: int) -> torch.Tensor:
    return torch.from_numpy(rng(1, count).integers(0, 256, (count, 4, size, size), dtype=np.uint8))


def make_image(cells: int, size: int) -> dict[str, torch.Tensor]:
    """One image that a grid of cells covers to two thirds."""
    side = int(np.ceil(cells**0.5))
    labels = torch.zeros(1, size, size, dtype=torch.int32)
    for cell in range(cells):
        y, x = (int((place + 0.1) * size / side) for place in divmod(cell, side))
        labels[0, y : y + int(0.8 * size / side), x : x + int(0.8 * size / side)] = cell + 1
    return {"images": random_pixels(1, size), "labels": labels}


@torch.inference_mode()
def clock(work: Callable[[], object], repeats: int) -> float:
    """The least of the seconds that `work` takes, after one run to warm up."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


if __name__ == "__main__":
    main()
