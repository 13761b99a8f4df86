"""CenterNet: targets against a slow oracle and by hand, decoding exactly back, the contract on every kind of image."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from losses.heatmap_focal import HeatmapFocal
from models.centernet import (
    UNIT,
    Centres,
    centernet,
    decode,
    draw_heatmap,
    find_centres,
    gaussian_radius,
    highest_near,
)
from models.weights import PACKAGED, load_pretrained

MEAN, STD = (0.5, 0.4, 0.3, 0.5), (0.2, 0.2, 0.2, 0.2)


def target(*boxes, labels=None) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
    }


def small(num_classes=1, channels=3, name="resnet18", **options):
    torch.manual_seed(0)
    return centernet(name, num_classes, channels, MEAN[:channels], STD[:channels], **options)


@pytest.mark.parametrize("shape", [(2, 3, 7, 5), (1, 1, 1, 1), (1, 2, 1, 6)])
def test_the_highest_near_is_a_maximum_pooling(shape):
    values = torch.rand(shape)
    assert torch.equal(highest_near(values), torch.nn.functional.max_pool2d(values, 3, 1, 1))


def test_radius_by_hand():
    sizes = torch.tensor([[25.0, 25.0], [10.0, 10.0], [1.0, 1.0], [20.0, 10.0]])
    # side s: s (2 sqrt(.49 + .21) - 1.4) = .2733 s; 20 x 10: -21 + sqrt(441 + 168) = 3.68
    assert gaussian_radius(sizes).tolist() == [6, 2, 0, 3]


def slow_heatmap(shape, cells) -> torch.Tensor:
    """cells: (image, label, row, column, radius)."""
    heatmap = torch.zeros(shape)
    for image, label, row, column, radius in cells:
        sigma = (2 * radius + 1) / 6
        for y in range(max(row - radius, 0), min(row + radius + 1, shape[2])):
            for x in range(max(column - radius, 0), min(column + radius + 1, shape[3])):
                value = math.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))
                heatmap[image, label, y, x] = max(heatmap[image, label, y, x].item(), value)
    return heatmap


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 2), st.integers(0, 8), st.integers(0, 11),
                          st.integers(0, 6)), max_size=6))  # fmt: skip
def test_heatmap_as_the_slow_one(cells):
    image, label, row, column, radius = torch.tensor(cells, dtype=torch.int64).reshape(-1, 5).unbind(1)
    centres = Centres(image, label, row, column, torch.zeros(len(cells), 2), torch.zeros(len(cells), 2))
    drawn = draw_heatmap((2, 3, 9, 12), centres, radius)
    torch.testing.assert_close(drawn, slow_heatmap((2, 3, 9, 12), cells), atol=1e-6, rtol=0)


def test_centres_of_boxes():
    targets = [target((0, 0, 9, 20), (10, 10, 10, 30), labels=[1, 0]), target(), target((60, 0, 80, 20), (-9, 0, 5, 9))]
    centres = find_centres(targets, rows=8, columns=16)  # no area, and a centre left of the image: passed over
    assert centres.image.tolist() == [0] and centres.label.tolist() == [1] and len(centres.size) == 1
    centres = find_centres(targets, rows=8, columns=18)  # the third one's centre lies at x = 70, column 17
    assert centres.image.tolist() == [0, 2]
    assert centres.column.tolist() == [1, 17] and centres.row.tolist() == [2, 2]
    torch.testing.assert_close(centres.offset, torch.tensor([[0.125, 0.5], [0.5, 0.5]]))
    torch.testing.assert_close(centres.size, torch.tensor([[2.25, 5.0], [5.0, 5.0]]))


def test_focal_by_hand():
    logits = torch.tensor([0.0, 0.0, math.log(3), 0.0]).view(1, 1, 2, 2)  # p = .5, .5, .75, .5
    truth = torch.tensor([1.0, 0.5, 0.0, 1.0]).view(1, 1, 2, 2)
    hit, near, far = 0.25 * math.log(2), 0.0625 * 0.25 * math.log(2), 0.5625 * math.log(4)
    assert HeatmapFocal()(logits, truth).item() == pytest.approx((2 * hit + near + far) / 2)
    assert HeatmapFocal()(logits, torch.zeros(1, 1, 2, 2)).item() == pytest.approx(3 * 0.25 * math.log(2) + far)
    assert HeatmapFocal()(torch.full((1, 1, 2, 2), 60000.0).half(), truth).isfinite()


@pytest.mark.parametrize("box_size", [None, 100.0])
def test_perfect_maps_give_the_boxes_back(box_size):
    """Boxes of 100 x 100 at sub-pixel places, one half outside the image, and two classes at one place."""
    centre = torch.tensor([[60.3, 50.9], [2.0, 120.7], [200.25, 31.1], [200.25, 31.1]])
    boxes = torch.cat([centre - 50, centre + 50], dim=1)
    truth = {"boxes": boxes, "labels": torch.tensor([0, 1, 0, 1])}
    centres = find_centres([truth], 32, 64)
    heatmap = draw_heatmap((1, 2, 32, 64), centres, gaussian_radius(centres.size))
    offset, size = torch.zeros(1, 2, 32, 64), torch.zeros(1, 2, 32, 64)
    offset[centres.image, :, centres.row, centres.column] = centres.offset
    size[centres.image, :, centres.row, centres.column] = (centres.size * 4 / UNIT).log()
    logits = heatmap.clamp(1e-6, 1 - 1e-6).logit()
    (found,) = decode(logits, offset, None if box_size else size, box_size, top_k=4)
    assert found["scores"].min() > 0.99
    order = sorted(range(4), key=lambda row: (found["boxes"][row].round().tolist(), found["labels"][row]))
    expected = sorted(range(4), key=lambda row: (boxes[row].round().tolist(), truth["labels"][row]))
    torch.testing.assert_close(found["boxes"][order], boxes[expected], atol=1e-3, rtol=0)
    assert found["labels"][order].tolist() == truth["labels"][expected].tolist()


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {}),
        ("resnet18", {"skips": True}),
        ("tf_efficientnet_lite0", {"skips": True, "box_size": 100.0}),
        ("tf_efficientnet_lite0", {}),
        ("convnext_atto", {"skips": True}),
    ],
)
def test_contract(name, options):
    model = small(2, 4, name, **options)
    images = torch.randint(0, 256, (2, 4, 70, 100), dtype=torch.uint8)
    targets = [target((10, 10, 40, 30), (50.5, 20, 90, 69), labels=[1, 0]), target()]

    losses = model.train()(images, targets)
    assert set(losses) == ({"heatmap", "offset"} if options.get("box_size") else {"heatmap", "offset", "size"})
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)

    with torch.no_grad():
        found = model.eval()(images)
    assert len(found) == 2
    for one in found:
        count = len(one["scores"])
        assert one["boxes"].shape == (count, 4) and one["labels"].shape == (count,) and 0 < count <= 500
        assert (one["scores"].diff() <= 0).all() and one["scores"].min() > 0.001
        assert one["labels"].dtype == torch.int64 and set(one["labels"].tolist()) <= {0, 1}
        centre = (one["boxes"][:, :2] + one["boxes"][:, 2:]) / 2
        assert (centre[:, 0] < 104).all() and (centre[:, 1] < 76).all()  # nothing on the padding


def test_images_without_boxes_train():
    model = small().train()
    losses = model(torch.zeros(2, 3, 64, 64), [target(), target()])
    assert losses["heatmap"] > 0 and losses["offset"] == 0 and losses["size"] == 0
    sum(losses.values()).backward()


def test_mixed_precision_losses_are_whole():
    model = small(skips=True).train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(torch.rand(2, 3, 64, 64) * 255, [target((3, 3, 30, 30)), target()])
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_first_scores_are_low():
    model = small().train()
    logits, _, _ = model.maps(torch.rand(2, 3, 64, 64) * 255)
    assert logits.shape == (2, 1, 16, 16)
    assert logits.sigmoid().mean().item() == pytest.approx(0.1, abs=0.05)


def test_maps_cover_the_image_alone():
    model = small().eval()
    image = torch.rand(1, 3, 64, 96) * 255
    assert model.maps(image)[0].shape == (1, 1, 16, 24)
    assert model.maps(image[..., :63, :95])[0].shape == (1, 1, 16, 24)
    assert model.maps(image[..., :60, :92])[0].shape == (1, 1, 15, 23)


@pytest.mark.parametrize(("name", "skips"), [("vit_tiny_patch16_224", False), ("test_vit", True)])
def test_unfit_backbones_are_refused(name, skips):
    with pytest.raises(UserError, match=r"cannot be a CenterNet's backbone .* such as resnet34"):
        small(name=name, skips=skips)


def test_starts_from_the_packaged_weights():
    model = small(1, 4, "tf_efficientnet_lite0", skips=True)
    fresh = load_pretrained(model, PACKAGED)
    assert fresh and not any(name.startswith("backbone.") for name in fresh)


@pytest.mark.slow
def test_learns_two_images():
    """Light cells of two sizes on a dark ground; a platelet-like one of 12 pixels among them."""
    model = small(2, skips=True, name="tf_efficientnet_lite0")
    images = torch.full((2, 3, 96, 96), 40.0)
    truth = [
        target((10, 12, 42, 44), (60, 50, 72, 62), labels=[0, 1]),
        target((50, 20, 82, 52), (14, 66, 26, 78), (20, 20, 32, 32), labels=[0, 1, 1]),
    ]
    for image, cells in zip(images, truth, strict=True):
        for x1, y1, x2, y2 in cells["boxes"].int().tolist():
            image[:, y1:y2, x1:x2] = 200
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model.train()
    for _ in range(60):
        loss = sum(model(images, truth).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for one in model.modules():
        if isinstance(one, torch.nn.BatchNorm2d):
            one.momentum = None  # the plain mean of what follows
            one.reset_running_stats()
    with torch.no_grad():
        for _ in range(2):
            model(images, truth)
        found = model.eval()(images)
    for one, cells in zip(found, truth, strict=True):
        count = len(cells["labels"])
        assert one["scores"][:count].min() > 0.4 and one["scores"][count:].max() < 0.3
        order, expected = one["boxes"][:count, 0].argsort(), cells["boxes"][:, 0].argsort()
        torch.testing.assert_close(one["boxes"][:count][order], cells["boxes"][expected], atol=4, rtol=0)
        assert one["labels"][:count][order].tolist() == cells["labels"][expected].tolist()
