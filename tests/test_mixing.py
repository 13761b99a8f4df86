"""MixUp and CutMix by hand, their odds, and what they refuse."""

import numpy as np
import pytest
import torch

from augment.mixing import Mixing, cutmix, mixup
from common.errors import UserError
from common.seeds import rng

SWAP = torch.tensor([1, 0])
TARGETS = torch.tensor([[1.0, 0.0, torch.nan], [0.0, 0.5, 1.0]])


class Centre:
    """A generator that always draws this centre."""

    def __init__(self, *centre: int):
        self.centre = np.array(centre)

    def integers(self, high):
        return self.centre


def test_mixup_by_hand():
    images = torch.tensor([100, 200], dtype=torch.uint8).view(2, 1, 1, 1).expand(2, 4, 2, 2)
    mixed, targets = mixup(images, TARGETS, SWAP, 0.75, rng(0))
    assert mixed[:, 0, 0, 0].tolist() == [125, 175] and mixed.shape == images.shape
    torch.testing.assert_close(
        targets, torch.tensor([[0.75, 0.125, torch.nan], [0.25, 0.375, torch.nan]]), equal_nan=True
    )


@pytest.mark.parametrize(
    ("centre", "box", "share"),
    [((4, 4), (2, 6, 2, 6), 0.75), ((0, 4), (0, 2, 2, 6), 0.875), ((7, 7), (5, 8, 5, 8), 1 - 9 / 64)],
)
def test_cutmix_by_hand(centre, box, share):
    """A quarter of 8 x 8 pixels is a box of 4 x 4, less where it reaches over the border."""
    images = torch.tensor([100, 200], dtype=torch.uint8).view(2, 1, 1, 1).repeat(1, 4, 8, 8)
    mixed, targets = cutmix(images, TARGETS, SWAP, 0.75, Centre(*centre))
    top, bottom, left, right = box
    expected = torch.full((8, 8), 100)
    expected[top:bottom, left:right] = 200
    assert (mixed[0] == expected).all() and (mixed[1] == 300 - expected).all() and mixed.dtype == torch.uint8
    assert targets[0, :2].tolist() == pytest.approx([share, 0.5 * (1 - share)]) and targets[:, 2].isnan().all()
    assert (images[0] == 100).all()  # what came in stays


def test_an_oblong_box_keeps_the_image_s_shape():
    images = torch.stack([torch.zeros(1, 4, 16), torch.ones(1, 4, 16)])
    mixed, _ = cutmix(images, TARGETS, SWAP, 0.75, Centre(2, 8))
    assert mixed[0, 0].sum(0).tolist() == [0] * 4 + [2] * 8 + [0] * 4


def test_the_odds():
    """Half of the batches pass as they are; of the others half are MixUp's (fractions), half CutMix's."""
    images = (torch.arange(4).view(4, 1, 1, 1).expand(4, 1, 16, 16) % 2).float()
    targets = torch.eye(4)
    mix, kinds = Mixing(mixup=1.0, cutmix=1.0, share=0.5), []
    for step in range(400):
        mixed, soft = mix(images, targets, rng(1, step))
        whole = bool(((mixed == 0) | (mixed == 1)).all())
        kinds.append("none" if mixed is images else "cutmix" if whole else "mixup")
        torch.testing.assert_close(soft.sum(1), torch.ones(4))
    counts = {kind: kinds.count(kind) for kind in ("none", "mixup", "cutmix")}
    assert 160 < counts["none"] < 240
    assert 60 < counts["mixup"] < 110 and 90 < counts["cutmix"] < 140  # like pairs make no fraction


def test_share_and_alpha_of_nothing_change_nothing():
    images, targets = torch.rand(2, 1, 4, 4), torch.eye(2)
    for mix in (Mixing(), Mixing(mixup=0.4, share=0.0)):
        assert mix(images, targets, rng(0)) == (images, targets)


def test_the_same_generator_gives_the_same_mixture():
    images, targets = torch.rand(8, 4, 16, 16), torch.eye(8)
    mix = Mixing(mixup=0.4, cutmix=1.0, share=1.0)
    for first, second in zip(mix(images, targets, rng(3, "a")), mix(images, targets, rng(3, "a")), strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(mix(images, targets, rng(3, "a"))[0], mix(images, targets, rng(3, "b"))[0])


@pytest.mark.parametrize(
    ("flags", "message"),
    [({"mixup": -1.0}, "--mixup -1.0"), ({"cutmix": -0.1}, "--cutmix -0.1"), ({"share": 1.5}, "--mix_share 1.5")],
)
def test_refusals(flags, message):
    with pytest.raises(UserError, match=message):
        Mixing(**flags)
