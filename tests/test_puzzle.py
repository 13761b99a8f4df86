"""PuzzleCAM: tiles, losses and the ramp by hand; cells scored by maps, whatever the view."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.views import VIEWS, apply_view, undo_view
from common.errors import UserError
from losses import LOSSES
from models import build
from models.puzzle import PuzzleCAM, cell_scores, join, quarters


def model(**options) -> PuzzleCAM:
    torch.manual_seed(0)
    return PuzzleCAM(build("class_resnet18_cam", 5, 4, 64), LOSSES["BCE"](), (0.1,) * 4, (0.5,) * 4, **options)


def pixels(count: int, size: int = 64) -> torch.Tensor:
    return torch.randint(0, 256, (count, 4, size, size), dtype=torch.uint8)


def test_quarters_by_hand():
    tiles = quarters(torch.arange(16).view(1, 1, 4, 4))[:, 0].tolist()
    assert tiles == [[[0, 1], [4, 5]], [[2, 3], [6, 7]], [[8, 9], [12, 13]], [[10, 11], [14, 15]]]


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_quarters_and_back(count, channels, height, width):
    images = torch.rand(count, channels, 2 * height, 2 * width)
    assert torch.equal(join(quarters(images)), images)
    assert torch.equal(quarters(images)[4 * (count - 1) + 1], images[-1, :, :height, width:])


def test_contract():
    net = model().train()
    losses = net(pixels(2), torch.eye(5)[:2])
    assert list(losses) == ["loss", "tile_loss", "reconstruction"]
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())
    images = pixels(3)
    out = net.eval()(images)
    assert out["probs"].shape == (3, 5) and out["cams"].shape == (3, 5, 2, 2)
    torch.testing.assert_close(out["cams"].mean((2, 3)).sigmoid(), out["probs"])
    assert set(net(images, torch.eye(5)[:3])) == {"loss", "probs", "cams"}
    assert list(model(puzzle=False).train()(pixels(2), torch.eye(5)[:2])) == ["loss"]


def test_the_losses_by_hand():
    """Whole map 3 everywhere, quarters 1, 1, 1 and 5: |full - merged| is 2; half of the classes are the image's."""
    net = model(alpha=4.0)
    net.net.features = lambda images: images
    net.net.head.cams = torch.nn.Identity()
    images = torch.tensor([1.0, 1.0, 1.0, 5.0]).view(4, 1, 1, 1).expand(4, 2, 3, 3)
    losses = net.puzzle_losses(join(images), torch.full((1, 2, 6, 6), 3.0), torch.tensor([[1.0, 0.0]]))
    assert losses["reconstruction"].item() == pytest.approx(4 * 2 / 2)
    expected = net.criterion(torch.tensor([[2.0, 2.0]]), torch.tensor([[1.0, 0.0]]))
    torch.testing.assert_close(losses["tile_loss"], expected)
    unknown = net.puzzle_losses(join(images), torch.full((1, 2, 6, 6), 3.0), torch.tensor([[torch.nan, 0.0]]))
    assert unknown["reconstruction"] == 0


def test_the_same_maps_cost_nothing():
    """Pooling by blocks sees the same in a quarter as in the whole."""
    net = model().train()
    net.net.features = lambda images: torch.nn.functional.avg_pool2d(images, 8)
    net.net.head.cams = torch.nn.Conv2d(4, 5, 1)
    losses = net(pixels(2), torch.eye(5)[:2])
    assert losses["reconstruction"] < 1e-6
    torch.testing.assert_close(losses["tile_loss"], losses["loss"])


def test_alpha_rises_over_the_ramp_and_survives_a_restart():
    net, images, targets = model(alpha=4.0, ramp=4).train(), pixels(2), torch.eye(5)[:2]
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 0.0
    sizes = [net(images, targets)["reconstruction"].item() for _ in range(6)]
    assert [size / sizes[-1] for size in sizes] == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1])
    fresh = model(alpha=4.0, ramp=4)
    fresh.load_state_dict(net.state_dict())
    assert fresh.seen == 6


def test_maps_of_odd_sizes_are_compared_at_the_whole_s():
    losses = model().train()(pixels(2, 96), torch.eye(5)[:2])  # 3 x 3 pixels, and 2 x 2 of each quarter
    assert losses["reconstruction"].isfinite()
    with pytest.raises(UserError, match="--crop_size must be even"):
        model().train()(pixels(2, 65), torch.eye(5)[:2])


def test_cell_scores_by_hand():
    cams = torch.tensor([[[4.0, 2.0], [-3.0, 0.0]], [[-1.0, -1.0], [-1.0, -1.0]]])
    labels = torch.tensor([[1, 2], [2, 0]])
    probs = torch.tensor([0.5, 0.9])
    assert cell_scores(cams, labels, probs, "mean").tolist() == [[0.5, 0], [0.125, 0]]
    assert cell_scores(cams, labels, probs, "max").tolist() == [[0.5, 0], [0.25, 0]]


def test_a_cell_is_scored_where_it_lies():
    """A hot spot on one of two cells of a finer label image."""
    cams = torch.zeros(1, 4, 4)
    cams[0, 1, 1] = 3
    labels = torch.zeros(32, 32, dtype=torch.int64)
    labels[8:16, 8:16], labels[20:30, 20:30] = 1, 2
    hot, cold = cell_scores(cams, labels, torch.ones(1))[:, 0].tolist()
    assert hot > 0.4 and cold == 0


def test_maps_are_undone_and_averaged_or_labels_turned():
    """The maps of a view, undone, score the cells as they do under the turned label image."""
    cams, labels, probs = torch.randn(3, 5, 5), torch.randint(0, 4, (20, 20)), torch.rand(3)
    labels[0, :3] = torch.tensor([1, 2, 3])
    views = {view: apply_view(cams, view) for view in VIEWS}
    mean = torch.stack([undo_view(own, view) for view, own in views.items()]).mean(0)
    expected = cell_scores(cams, labels, probs)
    torch.testing.assert_close(cell_scores(mean, labels, probs), expected)
    for view, own in views.items():
        torch.testing.assert_close(cell_scores(own, apply_view(labels, view), probs), expected)


def test_cells_of_label_images():
    net, images = model().eval(), pixels(2)
    labels = torch.zeros(2, 64, 64, dtype=torch.int32)
    labels[0, :9, :9], labels[0, 30:, 30:], labels[1, 20:40, 5:9] = 1, 2, 1
    out = net({"images": images, "labels": labels})
    whole = net(images)
    expected = torch.cat([cell_scores(*row) for row in zip(whole["cams"], labels, whole["probs"], strict=True)])
    torch.testing.assert_close(out["probs"], expected)
    assert out["probs"].shape == (3, 5)


def test_half_precision_scores_in_full():
    net, targets = model().train(), torch.eye(5)[:2]
    with torch.autocast("cpu", torch.float16):
        losses = net(pixels(2), targets)
        sum(losses.values()).backward()
        out = net.eval()(pixels(2))
    assert all(loss.isfinite() for loss in losses.values())
    assert out["probs"].dtype == out["cams"].dtype == torch.float32
