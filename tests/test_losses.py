"""Losses against numbers worked out by hand and against plain loops in double precision."""

import math

import pytest
import torch

from losses import LOSSES
from losses.bce import BCE
from losses.focal import Focal


def test_bce_by_hand():
    logits = torch.tensor([[0.0, math.log(3)]])  # probabilities 1/2 and 3/4
    loss = BCE()(logits, torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2)


def test_focal_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # (1 - p_t)^2 x -log p_t: 1/4 log 2, 9/16 log 4; second row twice 1/4 log 2; sum over classes, mean of two rows
    expected = (0.25 * math.log(2) + 9 / 16 * math.log(4) + 0.5 * math.log(2)) / 2
    assert Focal()(logits, targets).item() == pytest.approx(expected)


def test_focal_with_gamma_0_is_summed_bce():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.randint(0, 2, (5, 7)).float()
    torch.testing.assert_close(Focal(gamma=0)(logits, targets), 7 * BCE()(logits, targets))


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss(name):
    """Finite at extreme logits, lowest at the truth, blind to unknown targets, differentiable."""
    loss = LOSSES[name]()
    targets = torch.tensor([[1.0, 0.0, 1.0]])
    right, wrong = torch.tensor([[80.0, -80.0, 80.0]]), torch.tensor([[-80.0, 80.0, -80.0]])
    assert loss(right, targets) < 1e-6 < loss(wrong, targets) < math.inf

    unknown = torch.tensor([[1.0, 0.0, math.nan]])
    logits = torch.randn(1, 3, requires_grad=True)
    loss(logits, unknown).backward()
    assert logits.grad[0, 2] == 0 and torch.isfinite(logits.grad).all() and logits.grad[0, :2].abs().min() > 0
