"""YOLOX: the library's own losses as the oracle, decoding by hand, the contract, Megvii's weight files."""

import math

import pytest
import torch

from common.errors import UserError
from models.weights import load_pretrained
from models.yolox import SIZES, decode, yolox

pytest.importorskip("yolox", reason="pixeltable-yolox is not installed")


def target(*boxes, labels=None) -> dict[str, torch.Tensor]:
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        "labels": torch.tensor(labels or [0] * len(boxes), dtype=torch.int64),
    }


def small(num_classes=1, channels=3, name="yolox_nano", **options):
    torch.manual_seed(0)
    return yolox(name, num_classes, channels, **options)


TARGETS = [target((10, 10, 40, 30), (50.5, 20, 90, 62), (0, 0, 96, 64), labels=[1, 0, 1]), target()]


@pytest.mark.parametrize("name", SIZES)
def test_sizes_are_the_published_ones(name):
    with torch.device("meta"):
        model = yolox(name, 80, 3)
    million = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    published = {"nano": 0.91, "tiny": 5.06, "s": 9.0, "m": 25.3, "l": 54.2, "x": 99.1}
    assert million == pytest.approx(published[name.removeprefix("yolox_")], rel=0.01)


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize("classes", [1, 3])
def test_contract(classes, channels):
    model = small(classes, channels)
    images = torch.randint(0, 256, (2, channels, 70, 100), dtype=torch.uint8)
    targets = [target((10, 10, 40, 30), (50.5, 20, 90, 69), labels=[classes - 1, 0]), target()]

    losses = model.train()(images, targets)
    assert set(losses) == {"iou", "objectness", "class"}
    assert all(loss.isfinite() and loss.dtype == torch.float32 and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())

    model.threshold = 1e-5
    with torch.no_grad():
        found = model.eval()(images)
    for one in found:
        count = len(one["scores"])
        assert one["boxes"].shape == (count, 4) and 0 < count <= 300
        assert (one["scores"].diff() <= 0).all() and one["scores"].max() < 0.05  # the first scores are low
        assert one["labels"].dtype == torch.int64 and set(one["labels"].tolist()) <= set(range(classes))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("iou_loss", ["giou", "iou"])
def test_losses_as_the_library_has_them(iou_loss, late):
    model = small(2, iou_loss=iou_loss).train()
    images = torch.rand(2, 3, 64, 96) * 255
    model.head.use_l1 = late
    ours = model(images, [{**one, "late": late} for one in TARGETS])

    padded = torch.zeros(2, 5, 5)  # rows of label, centre x and y, width, height
    for row, (x1, y1, x2, y2) in enumerate(TARGETS[0]["boxes"].tolist()):
        padded[0, row] = torch.tensor([TARGETS[0]["labels"][row], (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
    for layer in model.modules():  # the first pass has moved the running means, which training does not read
        layer.training = True
    total, iou, objectness, kind, l1, _ = model.head(model.backbone(images.flip(1)), padded, images)
    torch.testing.assert_close(ours["iou"], iou)
    torch.testing.assert_close(ours["objectness"], objectness)
    torch.testing.assert_close(ours["class"], kind)
    torch.testing.assert_close(sum(ours.values()), total)
    assert iou > 0 and (ours["l1"] == l1 if late else "l1" not in ours)


def test_decode_by_hand():
    raw = torch.tensor([[[0.5, 0.25, math.log(2), 0.0, 0, 0], [0.0, 0.0, 500.0, -500.0, 0, 0]]])
    places = torch.tensor([[3.0, 1.0, 8.0], [0.0, 0.0, 32.0]])
    boxes = decode(raw, places)
    torch.testing.assert_close(boxes[0, 0], torch.tensor([28.0, 10.0, 16.0, 8.0]))
    assert boxes.isfinite().all()


def test_found_boxes_are_decoded_as_the_library_does():
    model = small(2, threshold=0.0, nms_iou=1.0, top_k=10**6).eval()
    images = torch.rand(1, 3, 64, 96) * 255
    with torch.no_grad():
        (found,) = model(images)
        (theirs,) = model.head(model.backbone(images.flip(1)))
    scores, labels = (theirs[:, 4:5] * theirs[:, 5:]).max(1)
    order = scores.argsort(descending=True, stable=True)
    torch.testing.assert_close(found["scores"], scores[order])
    corners = torch.cat([theirs[:, :2] - theirs[:, 2:4] / 2, theirs[:, :2] + theirs[:, 2:4] / 2], dim=1)
    assert len(found["boxes"]) == len(corners) == 12 * 8 + 6 * 4 + 3 * 2
    torch.testing.assert_close(found["boxes"].sum(0), corners.sum(0), rtol=1e-4, atol=1e-2)
    assert found["labels"].sum() == labels.sum()


def test_overlapping_boxes_of_a_class_give_way():
    model = small(2, nms_iou=0.3, threshold=0.1)
    boxes = torch.tensor([[20.0, 20, 20, 20], [22, 20, 20, 20], [22, 20, 20, 20], [60, 20, 10, 10], [5, 5, 4, 4]])
    scores = torch.tensor([[0.5, 0.1], [0.9, 0.2], [0.1, 0.8], [0.3, 0.2], [0.05, 0.1]])
    sure = torch.full((5, 1), 40.0)  # of an object: exactly 1
    raw = torch.cat([torch.zeros(5, 2), boxes[:, 2:].log(), sure, scores.logit()], dim=1)
    places = torch.cat([boxes[:, :2], torch.ones(5, 1)], dim=1)
    nothing = raw - 80 * (torch.arange(7) == 4)
    first, empty, found = model.best(torch.stack([raw, nothing, raw]), places)
    assert torch.equal(first["boxes"], found["boxes"]) and [len(values) for values in empty.values()] == [0, 0, 0]
    right = torch.tensor([[12.0, 10, 32, 30], [12, 10, 32, 30], [55, 15, 65, 25]])
    torch.testing.assert_close(found["boxes"], right)
    assert found["labels"].tolist() == [0, 1, 0]
    torch.testing.assert_close(found["scores"], torch.tensor([0.9, 0.8, 0.3]))


def test_images_without_boxes_train():
    bad = target((5, 5, 5, 20), (-60, 0, 10, 30), (20, 60, 40, 90))  # no area, centres outside an image of 64 x 64
    for targets in ([target(), target()], [bad, target()]):
        losses = small().train()(torch.zeros(2, 3, 64, 64), targets)
        assert losses["iou"] == 0 and losses["class"] == 0 and losses["objectness"] > 0
        sum(losses.values()).backward()


def test_mixed_precision_losses_are_whole():
    model = small().train()
    with torch.autocast("cpu", torch.bfloat16):
        losses = model(torch.rand(2, 3, 64, 96) * 255, [target((3, 3, 30, 30)), target()])
    assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())


def test_colour_images_become_bgr():
    model, seen = small().eval(), []
    model.backbone.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(torch.tensor([10, 20, 30], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 40, 50))
    assert seen[0].shape == (1, 3, 64, 64)
    assert seen[0][0, :, 0, 0].tolist() == [30, 20, 10] and (seen[0][0, :, 40:] == 114).all()


@pytest.mark.parametrize("name", ["yolox_nano", "yolox_s"])
def test_starts_from_megviis_file(tmp_path, name):
    """Their layout: 80 classes, beside other things, in the modules that the library loads Megvii's file into; all but
    the class layers come along, and a detector of other classes gives the same boxes.
    """
    from yolox.config import YoloxConfig

    torch.manual_seed(2)
    donor = YoloxConfig.get_named_config(name).get_model().state_dict()
    torch.save({"start_epoch": 300, "model": donor, "optimizer": {}}, tmp_path / f"{name}.pth")
    torch.manual_seed(1)
    model = yolox(name, 1, 3)
    assert {part: value.shape for part, value in yolox(name, 80, 3).state_dict().items()} == {
        part: value.shape for part, value in donor.items()
    }
    fresh = load_pretrained(model, str(tmp_path / f"{name}.pth"))
    assert sorted(fresh) == sorted(
        f"head.cls_preds.{level}.{part}" for level in range(3) for part in ("bias", "weight")
    )
    own = model.state_dict()
    assert all(torch.equal(own[part], value) for part, value in donor.items() if part not in fresh)
    with pytest.raises(UserError, match=f"{name}.pth does not fit --arch: of its weights"):
        load_pretrained(yolox("yolox_tiny", 1, 3), str(tmp_path / f"{name}.pth"))


def test_unknown_choices_are_named():
    with pytest.raises(UserError, match="--arch yolox_q is not known; choose from: yolox_nano"):
        yolox("yolox_q", 1, 3)
    with pytest.raises(UserError, match="iou_loss diou is not known; choose from: giou, iou"):
        yolox("yolox_nano", 1, 3, iou_loss="diou")


@pytest.mark.slow
def test_learns_two_images():
    model = small(2)
    images = torch.full((2, 3, 96, 96), 40.0)
    truth = [
        target((10, 12, 42, 44), (60, 50, 84, 74), labels=[0, 1]),
        target((50, 20, 82, 52), (14, 60, 38, 84), labels=[0, 1]),
    ]
    for image, cells in zip(images, truth, strict=True):
        for x1, y1, x2, y2 in cells["boxes"].int().tolist():
            image[:, y1:y2, x1:x2] = 200 if x2 - x1 > 30 else 130
    optimizer = torch.optim.AdamW(model.parameters(), 4e-3)
    model.train()
    for _ in range(100):
        loss = sum(model(images, truth).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    # Two images are too few for running means, so what is found is read in training's own mode.
    with torch.no_grad():
        raw, places = model.raw(images)
        found = model.best(raw, places)
    for one, cells in zip(found, truth, strict=True):
        order, expected = one["boxes"][:2, 0].argsort(), cells["boxes"][:, 0].argsort()
        torch.testing.assert_close(one["boxes"][:2][order], cells["boxes"][expected], atol=6, rtol=0)
        assert one["labels"][:2][order].tolist() == cells["labels"][expected].tolist()
