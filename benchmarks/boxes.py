"""How long the boxes of a whole test set take: decoding, NMS, fusion over folds, the count of each image, the scores.

    python benchmarks/boxes.py [--images 20751] [--folds 4] [--boxes 10] [--plain_images 2000]

The size of the Cytologia challenge's test set: every fold's network gives about --boxes boxes an image at confidence
.001. Ours treats all images in one call; the plain way goes image by image through torchvision's NMS, the package
ensemble-boxes, pycocotools and a loop for the challenge's score, on the first --plain_images images only (its figure
for all images is reckoned from that). Both ways must give the same numbers. Decoding is that of CenterNet and YOLOX at
512 pixels, from the networks' last layer to boxes, of --decoded images in batches of 8, reckoned for all images and
folds; a network's own output takes memory, so that it is not kept for all images.
"""

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
import torch
from ensemble_boxes import weighted_boxes_fusion
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision import ops

from cells.box_fusion import Fused, fuse, merge_centres
from cells.boxes import giou, nms, top
from metrics.box_class import best_prediction
from metrics.box_map import BOX, coco_ap
from models.centernet import decode as decode_maps
from models.yolox import YOLOX

BATCH, DECODED = 8, 512  # images at once, and the pixels that networks see them at
SIDE, NMS, WBF, SKIP, RADIUS = 370, 0.3, 0.25, 1e-4, 12  # pixels, and the published settings


def get_args_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20751)
    parser.add_argument("--folds", type=int, default=4)
    parser.add_argument("--boxes", type=int, default=10, help="boxes that a fold finds in an image, about")
    parser.add_argument("--plain_images", type=int, default=2000)
    parser.add_argument("--decoded", type=int, default=80, help="images whose networks' outputs are decoded")
    return parser


def make_boxes(images: int, folds: int, boxes: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """True cells, 1.1 an image, and what the folds find: each cell a few times, the rest anywhere with low scores."""
    draw = np.random.default_rng(0)
    owner = np.concatenate([np.arange(images), draw.integers(images, size=images // 10)])
    low = draw.uniform(0, SIDE * 0.6, (len(owner), 2))
    truth = pd.DataFrame(np.hstack([low, low + draw.uniform(80, SIDE * 0.4, (len(owner), 2))]), columns=BOX)
    truth = truth.assign(image=owner, **{"class": draw.integers(23, size=len(owner))})
    near = np.tile(np.repeat(np.arange(len(owner)), 3), folds)
    parts = [truth[BOX].to_numpy()[near] + draw.normal(0, 6, (len(near), 4))]
    far = images * folds * max(boxes - 3, 0)
    low = draw.uniform(0, SIDE * 0.8, (far, 2))
    parts.append(np.hstack([low, low + draw.uniform(20, SIDE * 0.2, (far, 2))]))
    found = pd.DataFrame(np.vstack(parts).clip(0, SIDE), columns=BOX)
    found["image"] = np.concatenate([owner[near], draw.integers(images, size=far)])
    found["fold"] = np.concatenate([np.repeat(np.arange(folds), len(near) // folds), draw.integers(folds, size=far)])
    found["score"] = np.concatenate([draw.uniform(0.3, 1, len(near)), draw.uniform(0.001, 0.3, far)])
    found["class"] = np.concatenate([truth["class"].to_numpy()[near], draw.integers(23, size=far)])
    return tuple(table.assign(ImageID=table["image"].map("{:08d}".format)) for table in (truth, found))


def fuse_all(found: pd.DataFrame, folds: int) -> Fused:
    """NMS in each fold and image, then one fusion over the folds; all images in two calls."""
    boxes, scores = found[BOX].to_numpy(), found["score"].to_numpy()
    kept = nms(boxes, scores, NMS, (found["image"] * folds + found["fold"]).to_numpy())
    columns = (found[name].to_numpy()[kept] for name in ("fold", "image"))
    models, images = columns
    return fuse(boxes[kept], scores[kept], models, np.ones(folds), WBF, images, SKIP)


def fuse_plainly(found: pd.DataFrame, folds: int) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    """The same, image by image: torchvision and ensemble-boxes."""
    result = {}
    for image, own in found.groupby("image"):
        parts = []
        for fold in range(folds):
            rows = own[own["fold"] == fold]
            boxes, scores = rows[BOX].to_numpy(), rows["score"].to_numpy()
            kept = ops.nms(torch.tensor(boxes), torch.tensor(scores), NMS).numpy()
            parts.append((boxes[kept] / SIDE, scores[kept], np.zeros(len(kept))))
        boxes, scores, _ = weighted_boxes_fusion(*zip(*parts, strict=True), iou_thr=WBF, skip_box_thr=SKIP)
        result[image] = boxes * SIDE, scores
    return result


def same(ours: Fused, plain: dict[int, tuple[np.ndarray, np.ndarray]]) -> bool:
    """Whether both fusions have the same boxes and scores, to the 32 bits that the package keeps."""
    for image, (boxes, scores) in plain.items():
        own = slice(*np.searchsorted(ours.groups, [image, image + 1]))
        if ours.scores[own].shape != scores.shape or not np.allclose(ours.scores[own], scores, rtol=1e-5):
            return False
        order = np.lexsort((boxes[:, 0], -scores.round(6)))
        mine = ours.boxes[own][np.lexsort((ours.boxes[own][:, 0], -ours.scores[own].round(6)))]
        if not np.allclose(mine, boxes[order], atol=1e-2):
            return False
    return True


def cocoeval(truth: pd.DataFrame, found: pd.DataFrame) -> np.ndarray:
    """pycocotools' AP of each class and threshold."""

    def rows(table: pd.DataFrame) -> list[dict]:
        sizes = table[["x2", "y2"]].to_numpy() - table[["x1", "y1"]].to_numpy()
        boxes = np.hstack([table[["x1", "y1"]].to_numpy(), sizes])
        columns = zip(table["image"].tolist(), table["class"].tolist(), boxes.tolist(),
                      table.get("score", pd.Series(1.0, table.index)).tolist(), strict=True)  # fmt: skip
        return [
            {"id": index, "image_id": image, "category_id": label, "bbox": box, "area": box[2] * box[3], "iscrowd": 0,
             "score": score} for index, (image, label, box, score) in enumerate(columns, start=1)
        ]  # fmt: skip

    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        images = sorted({*truth["image"], *found["image"]})
        true.dataset = {"images": [{"id": image} for image in images], "annotations": rows(truth), "info": {},
                        "categories": [{"id": index} for index in range(23)]}  # fmt: skip
        true.createIndex()
        judge = COCOeval(true, true.loadRes(rows(found)), "bbox")
        judge.params.areaRng, judge.params.areaRngLbl = judge.params.areaRng[:1], ["all"]
        judge.params.maxDets = [100]
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"][:, :, :, 0, 0].mean(axis=1)


def best_plainly(truth: pd.DataFrame, found: pd.DataFrame) -> np.ndarray:
    """The highest GIoU of each true box, box by box."""
    own = {image: rows[BOX].to_numpy() for image, rows in found.groupby("image")}
    return np.array([
        giou(np.array(box), own[image]).max() if image in own else -1.0
        for image, *box in truth[["image", *BOX]].itertuples(index=False)
    ])  # fmt: skip


def centernet_decodes() -> Callable[[], Any]:
    """Decoding of a batch of heatmaps, offsets and sizes as a network of random weights gives them."""
    heatmap, offset, size = (torch.randn(BATCH, channels, DECODED // 4, DECODED // 4) for channels in (1, 2, 2))
    return lambda: decode_maps(heatmap - 4, offset, size, None, 100)


def yolox_decodes() -> Callable[[], Any]:
    """The same of all places of YOLOX's three maps."""
    sides = [DECODED // stride for stride in (8, 16, 32)]
    places = torch.cat([
        torch.stack([*torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"),
                     torch.full((side, side), DECODED // side)], dim=2).reshape(-1, 3) for side in sides
    ])  # fmt: skip
    raw = torch.randn(BATCH, len(places), 6)
    raw[..., 4] = raw[..., 4] * 2 - 10  # objectness: 3 % of the places are surer than the threshold
    settings = SimpleNamespace(threshold=0.001, nms_iou=NMS, top_k=300)

    def work() -> None:
        YOLOX.best(settings, raw, places)

    return work


def timed(function: Callable, *args) -> tuple[Any, float]:
    start = time.perf_counter()
    result = function(*args)
    return result, time.perf_counter() - start


def report(what: str, ours: float, plain: float, share: float, agree: bool) -> None:
    print(f"{what:34s} {ours:8.2f} s   plain {plain:7.2f} s -> {plain / share:7.0f} s   {plain / share / ours:6.0f} x"
          f"   same: {agree}")  # fmt: skip


def main() -> None:
    args = get_args_parser().parse_args()
    truth, found = make_boxes(args.images, args.folds, args.boxes)
    few_truth, few = (table[table["image"] < args.plain_images] for table in (truth, found))
    print(f"{args.images} images, {len(found)} boxes of {args.folds} folds; plain: {args.plain_images} images")
    for work in (fuse_all, lambda table, _: coco_ap(few_truth, table, 23)):  # compile
        work(few, args.folds)
    for name, work in (("CenterNet", centernet_decodes()), ("YOLOX", yolox_decodes())):
        work()
        start = time.process_time()  # short pieces of work are cut up by other programs
        for _ in range(args.decoded // BATCH):
            work()
        share = args.decoded // BATCH * BATCH / args.images / args.folds
        print(f"{'decode, ' + name:34s} {(time.process_time() - start) / share:8.2f} s of CPU")
    share = len(few) / len(found)
    fused, ours = timed(fuse_all, found, args.folds)
    plain, seconds = timed(fuse_plainly, few, args.folds)
    report("NMS in each fold, WBF over folds", ours, seconds, share, same(fused, plain))
    rows = [found[name].to_numpy() for name in ("score", "fold")]
    merged, ours = timed(
        merge_centres, found[BOX].to_numpy(), *rows, np.ones(args.folds), RADIUS, found["image"].to_numpy()
    )
    print(f"{'merge by centre distance':34s} {ours:8.2f} s   {len(merged.scores)} left")
    kept, ours = timed(top, fused.scores, fused.groups, 1)
    print(f"{'the count of each image':34s} {ours:8.2f} s   {len(kept)} left")
    _, ours = timed(coco_ap, truth, found, 23)
    precision, seconds = timed(cocoeval, few_truth, few)
    agree = np.allclose(coco_ap(few_truth, few, 23), precision, atol=1e-9)
    report("COCO mAP, 23 classes", ours, seconds, share, agree)
    (_, overlap), ours = timed(best_prediction, truth, found)
    plain, seconds = timed(best_plainly, few_truth, few)
    agree = np.allclose(overlap[truth["image"] < args.plain_images], plain, atol=1e-12)
    report("best GIoU of each true box", ours, seconds, share, agree)


if __name__ == "__main__":
    main()
