"""Features pooled by masks: by hand, against a slow oracle, and cell by cell."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augment.views import VIEWS, apply_view
from common.errors import UserError
from losses import LOSSES
from models import build
from models.mask_pooled import MaskPooled, cover, pool_masks


def model(arch: str = "pooled_resnet18", **options) -> MaskPooled:
    torch.manual_seed(0)
    return MaskPooled(build(arch, 5, 4, 64), LOSSES["BCE"](), (0.1,) * 4, (0.5,) * 4, **options)


def scene(*counts: int, size: int = 64) -> dict[str, torch.Tensor]:
    """Images with `counts` cells, each a random box; of overlapping ones the later is on top, all keep a pixel."""
    labels = torch.zeros(len(counts), size, size, dtype=torch.int32)
    for image, count in zip(labels, counts, strict=True):
        for cell in range(count):
            y, x, h, w = (int(value) for value in torch.randint(4, size // 2, (4,)))
            image[y : y + h, x : x + w] = cell + 1
        image[0, :count] = torch.arange(1, count + 1)
    return {"images": torch.randint(0, 256, (len(counts), 4, size, size), dtype=torch.uint8), "labels": labels}


def test_cover_by_hand():
    """A 2 x 2 map: cell 1 covers the upper left pixel and a quarter of the next, cell 2 a dot; then a row of four."""
    labels = torch.tensor(
        [[[1, 1, 1, 0], [1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 2]], [[0] * 4, [0] * 4, [1] * 4, [0] * 4]]
    )
    shares = cover(labels, torch.tensor([2, 1]), 2, 2)
    assert shares.tolist() == [[1, 0.25, 0, 0], [0, 0, 0, 0.25], [0, 0, 0.5, 0.5]]


def test_cover_of_a_map_that_does_not_divide():
    """Five pixels on two of the map: the middle one's centre lies in the second half."""
    labels = torch.tensor([[[1, 1, 1, 0, 0]]])
    assert cover(labels, torch.tensor([1]), 1, 2)[0].tolist() == pytest.approx([1, 1 / 3])


def test_pooling_by_hand():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]], [[[10.0, 20.0], [30.0, 40.0]]]])
    shares = torch.tensor([[1, 0.25, 0, 0], [0, 0, 0, 0.25], [0, 0, 0.5, 0.5]])
    pooled = pool_masks(maps, shares, torch.tensor([2, 1]))
    torch.testing.assert_close(pooled, torch.tensor([[1.2, 1.0], [4.0, 4.0], [35.0, 40.0]]))


@given(counts=st.lists(st.integers(1, 5), min_size=1, max_size=3), side=st.integers(1, 7), seed=st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_pooling_against_loops(counts, side, seed):
    torch.manual_seed(seed)
    labels, counted = scene(*counts, size=20)["labels"].long(), torch.tensor(counts)
    maps = torch.randn(len(counts), 3, side, side)
    pooled = pool_masks(maps, cover(labels, counted, side, side), counted)
    rows = [oracle(maps[image], labels[image] == cell + 1) for image, n in enumerate(counts) for cell in range(n)]
    torch.testing.assert_close(pooled, torch.stack(rows))


def oracle(maps: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """One cell, pixel by pixel."""
    side, size = maps.shape[1], len(mask)
    covered, whole = torch.zeros(side, side), torch.zeros(side, side)
    for y in range(size):
        for x in range(size):
            place = int((y + 0.5) / size * side), int((x + 0.5) / size * side)
            covered[place] += float(mask[y, x])
            whole[place] += 1
    share = covered / whole
    strong = share >= share.max() / 2
    return torch.cat([(maps * share).sum((1, 2)) / share.sum(), maps[:, strong].amax(1)])


@pytest.mark.parametrize("pool", ["max", "attention"])
def test_contract(pool):
    net = model(pool=pool).train()
    targets = torch.eye(5)[:2]
    losses = net(scene(3, 2), targets)
    assert list(losses) == ["loss", "cell_loss", "image_loss"]
    sum(losses.values()).backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in net.parameters())
    images = scene(3, 2)
    out = net.eval()(images)
    assert out["probs"].shape == (5, 5) and out["image_probs"].shape == (2, 5)
    torch.testing.assert_close(net(images["images"])["probs"], out["image_probs"])  # the image alone
    assert net(images, targets)["probs"].shape == (2, 5)


def test_a_cell_is_judged_by_its_own_pixels():
    """What happens far away from a cell changes nothing for it, when the network itself does not look so far."""
    net = model().eval()
    net.net.features = lambda images: images  # a map as fine as the image
    net.net.head = build("pooled_resnet18", 5, 4, 64).head.eval()
    net.net.head.layers = torch.nn.Linear(8, 5)
    images = scene(3)
    before = net(images)["probs"]
    images["images"][0][:, images["labels"][0] != 2] = 7
    after = net(images)["probs"]
    torch.testing.assert_close(before[1], after[1])
    assert not torch.allclose(before[0], after[0]) and not torch.allclose(before[2], after[2])


def test_views_do_not_mix_cells_up():
    """With a network that looks the same in all directions, a flipped image and flipped labels give the same cells."""
    net = model().eval()
    net.net.features = lambda images: torch.nn.functional.avg_pool2d(images, 8)
    net.net.head.layers = torch.nn.Linear(8, 5)
    images = scene(3, 1)
    expected = net(images)["probs"]
    for view in VIEWS:
        turned = {name: apply_view(batch, view) for name, batch in images.items()}
        torch.testing.assert_close(net(turned)["probs"], expected)


def test_transformers_without_a_map_are_refused():
    with pytest.raises(UserError, match="needs a map of rows and columns"):
        model("pooled_vit_tiny_patch16_224").eval()(scene(1))


def test_half_precision_pools_in_full():
    net, images = model(pool="attention").train(), scene(3, 2)
    with torch.autocast("cpu", torch.float16):
        losses = net(images, torch.eye(5)[:2])
        sum(losses.values()).backward()
        out = net.eval()(images)
    assert all(loss.isfinite() and loss.dtype == torch.float32 for loss in losses.values())
    assert out["probs"].dtype == torch.float32 and out["probs"].isfinite().all()
