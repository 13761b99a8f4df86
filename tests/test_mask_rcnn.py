"""Mask R-CNN: the contract on every kind of image, masks back on their pixels, training on blobs."""

import cv2
import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import project_masks_on_boxes

import competitions
from augment.scenes import mask_boxes
from augment.views import VIEWS
from cells import network_finder
from cells.found_masks import cut_from_box, frames_of, stack_layers
from cells.masks import encode_mask
from cells.overlaps import remove_overlaps
from common.errors import UserError
from engine.device import make_fabric
from metrics.instance_pairs import pair_labels
from models import DETECTORS, build_detector, finds_masks, task_of
from models.weights import PACKAGED, load_pretrained

MEAN, STD = (0.5, 0.4, 0.3, 0.5), (0.2, 0.2, 0.2, 0.2)
LIGHT = {"channels": 32, "representation": 32, "rois": 32, "most": 20}


def small(num_classes=1, channels=3, name="resnet18", **options):
    torch.manual_seed(0)
    make = DETECTORS["maskrcnn_<timm>"]
    return make(name, num_classes, channels, MEAN[:channels], STD[:channels], **LIGHT | options)


def discs(*cells, shape=(64, 96), labels=None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """An image of bright discs (x, y, radius) and its target."""
    masks = np.zeros((len(cells), *shape), np.uint8)
    for mask, (x, y, radius) in zip(masks, cells, strict=True):
        cv2.circle(mask, (x, y), radius, 1, -1)
    image = torch.from_numpy(masks.any(0).astype(np.uint8) * 180 + 20).expand(3, -1, -1)
    boxes = mask_boxes(masks) if len(masks) else np.zeros((0, 4), np.float32)
    return image, {
        "boxes": torch.from_numpy(boxes),
        "labels": torch.tensor(labels or [0] * len(cells), dtype=torch.int64),
        "masks": torch.from_numpy(masks),
    }


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_contract_on_backbones(name):
    model = small(name=name)
    image, target = discs((30, 30, 9), (70, 20, 6))
    losses = model(image[None], [target])
    assert set(losses) == {"objectness", "proposals", "class", "box", "mask"}
    sum(losses.values()).backward()
    idle = [key for key, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert not idle  # a weight that no loss reaches would stop training on several devices
    with torch.inference_mode():
        (found,) = model.eval()(image[None])
    count = len(found["scores"])
    assert found["boxes"].shape == (count, 4) and found["masks"].shape == (count, 28, 28) and count <= 20
    assert (found["scores"].diff() <= 0).all() and set(found["labels"].tolist()) <= {0}


def test_any_size_channels_and_no_cells():
    model = small(num_classes=3, channels=4)
    image, target = discs((20, 20, 8), shape=(50, 70), labels=[2])
    _, nothing = discs(shape=(50, 70))
    images = torch.stack([image[[0, 1, 2, 0]], torch.full((4, 50, 70), 20, dtype=torch.uint8)])
    losses = model(images, [target, nothing])
    assert all(value.isfinite() for value in losses.values())
    flat = {**target, "boxes": torch.tensor([[5.0, 5.0, 5.0, 9.0]])}  # no area: as if it were not there
    torch.manual_seed(3)
    first = model(images, [flat, nothing])
    torch.manual_seed(3)
    second = model(images, [nothing, nothing])
    assert all(torch.equal(first[key], second[key]) for key in first)
    with torch.inference_mode():
        found = model.eval()(images)
    assert all((one["boxes"][:, 2] <= 70).all() and (one["boxes"][:, 3] <= 50).all() for one in found)
    assert all(set(one["labels"].tolist()) <= {0, 1, 2} for one in found)


def test_labels_begin_at_nought(monkeypatch):
    model = small(num_classes=2)
    image, target = discs((30, 30, 9), labels=[1])
    seen = {}
    forward = model.roi_heads.forward

    def spy(maps, proposals, sizes, targets):
        seen["labels"] = targets[0]["labels"].tolist()
        return forward(maps, proposals, sizes, targets)

    monkeypatch.setattr(model.roi_heads, "forward", spy)
    model(image[None], [target])
    assert seen["labels"] == [2] and target["labels"].tolist() == [1]


@pytest.mark.parametrize("training", [True, False])
def test_boxes_are_not_of_half_precision(monkeypatch, training):
    model, kinds = small().train(training), []
    forward = model.roi_heads.forward

    def spy(maps, proposals, sizes, targets):
        kinds.extend(own.dtype for own in (*maps.values(), *proposals))
        return forward(maps, proposals, sizes, targets)

    monkeypatch.setattr(model.roi_heads, "forward", spy)
    image, target = discs((30, 30, 9))
    with torch.autocast("cpu", torch.bfloat16):
        out = model(image[None], [target] if training else None)
    assert set(kinds) == {torch.float32}
    values = out if training else out[0]
    assert all(value.dtype == torch.float32 for name, value in values.items() if name != "labels")


def test_packaged_weights_fit_the_backbone():
    model = small(name="tf_efficientnet_lite0")
    before = model.backbone.conv_stem.weight.clone()
    fresh = load_pretrained(model, PACKAGED)
    assert not any(name.startswith("backbone.") for name in fresh)
    assert not torch.equal(before, model.backbone.conv_stem.weight)


def test_names():
    assert task_of("maskrcnn_light_resnet18") == task_of("maskrcnn_convnext_tiny") == "detect"
    assert finds_masks("maskrcnn_convnext_tiny") and not finds_masks("centernet_resnet18")
    light = build_detector("maskrcnn_light_resnet18", 1, 3, MEAN[:3], STD[:3])
    assert light.roi_heads.box_head.fc7.out_features == 256
    with pytest.raises(UserError, match="vit_tiny_patch16_224 cannot be a backbone"):
        build_detector("maskrcnn_vit_tiny_patch16_224", 1, 3, MEAN[:3], STD[:3])


@pytest.mark.parametrize("radius", [4, 7, 15, 40])
def test_masks_come_back_from_their_boxes(radius):
    """What a perfect network would give, 28 x 28 numbers as it learns them, is the mask again."""
    mask = np.zeros((1, 100, 100), np.uint8)
    cv2.ellipse(mask[0], (51, 48), (radius, max(radius // 2, 2)), 30, 0, 360, 1, -1)
    box = mask_boxes(mask)
    learned = project_masks_on_boxes(torch.from_numpy(mask), torch.from_numpy(box), torch.zeros(1, dtype=int), 28)
    pixels, (x, y) = cut_from_box(learned[0].numpy(), box[0], frames_of(box)[0], (100, 100))
    back = np.zeros((100, 100), bool)
    back[y : y + pixels.shape[0], x : x + pixels.shape[1]] = pixels > 0.5
    overlap = (back & (mask[0] > 0)).sum() / (back | (mask[0] > 0)).sum()
    assert overlap > 0.93


class Perfect(torch.nn.Module):
    """Finds each bright part of an image, with the mask that it would have been taught."""

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        return [self.finds(image[0].numpy() > 120) for image in images]

    def finds(self, bright: np.ndarray) -> dict[str, torch.Tensor]:
        count, labels = cv2.connectedComponents(bright.astype(np.uint8))
        masks = torch.from_numpy(np.stack([labels == label for label in range(1, count)]).astype(np.uint8))
        boxes = torch.from_numpy(mask_boxes(masks.numpy()))
        learned = project_masks_on_boxes(masks, boxes, torch.arange(count - 1), 28)
        ones = torch.ones(count - 1)
        return {"boxes": boxes, "scores": 0.9 * ones, "labels": 0 * ones, "masks": learned}


@pytest.mark.parametrize("img_size", [208, 416])
@pytest.mark.parametrize("views", [*([view] for view in VIEWS), ["default", "fliplr", "flipud"]])
def test_masks_of_every_view_lie_on_their_cells(monkeypatch, views, img_size):
    """Also where the network sees the image, which is not square, at twice its size."""
    truth = np.zeros((130, 208), np.uint8)
    cells = (20, 20, 0), (70, 40, 40), (150, 30, 90), (30, 90, 120), (190, 110, 10)
    for number, (x, y, angle) in enumerate(cells, 1):
        cv2.ellipse(truth, (x, y), (9, 6), angle, 0, 360, number, -1)
    image = np.repeat((truth > 0)[..., None] * np.uint8(220), 3, 2)
    learned = {"competition": "neurons", "arch": "maskrcnn_x", "num_classes": 1, "img_size": img_size}
    monkeypatch.setattr(network_finder, "open_network", lambda *given: (Perfect(), learned))
    fusing, competition = network_finder.Fusing("wbf", 0.55, 12, 0.05, 0.5, 1000), competitions.get("neurons", "cell")
    finder = network_finder.NetworkFinder(["a.pth"], competition, views, fusing, make_fabric("cpu", False))
    pairs = pair_labels(truth.astype(np.int32), finder.label(image, finder.predict([image])[0]).cells)
    assert len(pairs.iou) == 5 and pairs.iou.min() > 0.95


def test_boxes_at_the_border_and_tiny():
    ones = np.ones((28, 28), np.float32)
    pixels, corner = cut_from_box(ones, *[(-5.2, -3, 4.6, 2.2)] * 2, (50, 60))
    assert pixels.shape == (2, 5) and corner == (0, 0) and (pixels == 1).all()
    pixels, corner = cut_from_box(ones, *[(10.1, 10.1, 10.3, 10.2)] * 2, (50, 60))
    assert pixels.shape == (1, 1) and corner == (10, 10)
    pixels, _ = cut_from_box(ones, *[(70, 3, 80, 9)] * 2, (50, 60))
    assert pixels.size == 0


def test_layers_hold_overlapping_masks_whole():
    masks = np.zeros((3, 4, 5), bool)
    masks[0, :2, :3], masks[1, 1:3, 2:], masks[2, 3] = True, True, True
    first, second = stack_layers([encode_mask(mask) for mask in masks], 4, 5)
    assert (first == 1).sum() == 6 and (first == 3).sum() == 5 and (second == 2).sum() == 6


@pytest.mark.slow
def test_learns_blobs():
    image, target = discs((16, 20, 8), (44, 40, 10), (80, 20, 6))
    model = small(most=30)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    for _ in range(50):
        optimizer.zero_grad()
        sum(model(image[None], [target]).values()).backward()
        optimizer.step()
    model.eval()
    for part in model.modules():  # one image is too few for running means
        if isinstance(part, torch.nn.BatchNorm2d):
            part.train()
    with torch.inference_mode():
        (found,) = model(image[None])
    sure = found["scores"] > 0.5
    masks, boxes = found["masks"][sure].numpy(), found["boxes"][sure].numpy()
    cuts = [cut_from_box(*one, (64, 96)) for one in zip(masks, boxes, frames_of(boxes), strict=True)]
    labels = remove_overlaps(cuts, found["scores"][sure].numpy(), (64, 96))
    truth = (target["masks"].numpy() * np.arange(1, 4)[:, None, None]).sum(0)
    assert (pair_labels(truth, labels).iou > 0.6).sum() == 3
