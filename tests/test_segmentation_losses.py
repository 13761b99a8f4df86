"""Losses of class maps: hand-worked numbers, a slow oracle in double precision, mixed precision, the weighted sum."""

import math

import pytest
import torch

from losses.segmentation import MAP_LOSSES, MapLoss, boundary, dice, focal, shares, steepness


def random_case(classes=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, classes, 5, 6, generator=generator, dtype=dtype)
    return logits, torch.randint(classes, (2, 5, 6), generator=generator)


def test_dice_by_hand():
    probs = torch.tensor([[[[1.0, 0.5]], [[0.0, 0.5]]]])  # two classes, two pixels
    targets = shares(torch.tensor([[[0, 1]]]), 2).float()
    # class 0: (2 * 1 + 1) / (1.5 + 1 + 1) = 6/7; class 1: (2 * .5 + 1) / (.5 + 1 + 1) = 4/5
    assert dice(probs, targets, torch.ones(2)).item() == pytest.approx((1 / 7 + 1 / 5) / 2)
    assert dice(probs, targets, torch.tensor([3.0, 1.0])).item() == pytest.approx((3 / 7 + 1 / 5) / 4)
    assert dice(targets, targets, torch.ones(2)).item() == pytest.approx(0, abs=1e-6)
    absent = torch.zeros(1, 3, 1, 2)
    absent[:, 0] = 1  # the classes 1 and 2 are neither true nor found
    assert dice(absent, absent, torch.ones(3)).item() == pytest.approx(0, abs=1e-6)


def test_focal_by_hand():
    logits = torch.tensor([0.0, math.log(3)]).view(1, 2, 1, 1)  # p = .25, .75
    first, second = (focal(logits, shares(torch.tensor([[[k]]]), 2)).item() for k in (0, 1))
    assert first == pytest.approx(0.25 * 0.75**2 * math.log(4))
    assert second == pytest.approx(0.25 * 0.25**2 * math.log(4 / 3))


def test_cross_entropy_of_maps_and_of_shares():
    logits, targets = random_case()
    loss = MapLoss(torch.ones(3), "DiceCrossEntropy")
    right = -logits.log_softmax(1).gather(1, targets[:, None]).mean() / 2
    for given in (targets, shares(targets, 3)):
        torch.testing.assert_close(loss(logits, given)["cross_entropy"], right)


def test_boundary_by_hand():
    step = torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]).view(1, 1, 2, 3)
    assert steepness(step).round(decimals=3).flatten().tolist() == [0, 1, 0, 0, 1, 0]
    corner = torch.tensor([[0.0, 1.0], [1.0, 1.0]]).view(1, 1, 2, 2)
    assert steepness(corner)[0, 0, 0, 0].item() == pytest.approx(math.sqrt(2))
    flat = torch.full((1, 1, 2, 3), 0.5)
    assert boundary(flat, step).item() == pytest.approx(2 / 6, abs=1e-3)
    assert boundary(step, step).item() == 0


def test_as_the_slow_ones():
    logits, targets = random_case()
    weights = torch.tensor([0.5, 2.0, 0.5], dtype=torch.float64)
    probs, terms, total = logits.softmax(1), [], 0.0
    for k in range(3):
        common = sum(probs[n, k, y, x] for n, y, x in (targets == k).nonzero().tolist())
        terms.append(weights[k] * (1 - (2 * common + 1) / (probs[:, k].sum() + (targets == k).sum() + 1)))
    for n in range(2):
        for y in range(5):
            for x in range(6):
                p = probs[n, targets[n, y, x], y, x]
                total -= 0.25 * (1 - p) ** 2 * p.log() / 60
    losses = MapLoss(weights)(logits, targets)
    assert losses["dice"].item() == pytest.approx(0.7 * (sum(terms) / 3).item())
    assert losses["focal"].item() == pytest.approx(0.2 * total.item())
    assert set(losses) == {"dice", "focal", "boundary"} and set(MapLoss(weights, "FrequencyDice")(logits, targets)) == {
        "dice"
    }


def test_gradients_are_right_and_finite():
    logits, targets = random_case()
    criterion = MapLoss(torch.ones(3))
    assert torch.autograd.gradcheck(lambda x: sum(criterion(x, targets).values()), logits.requires_grad_())
    flat = torch.zeros(1, 3, 4, 4, requires_grad=True)  # steepness 0 everywhere
    sum(criterion(flat, torch.zeros(1, 4, 4, dtype=torch.int64)).values()).backward()
    assert flat.grad.isfinite().all()


def test_shares_are_maps_when_they_are_whole():
    logits, targets = random_case(dtype=torch.float32)
    criterion = MapLoss(torch.ones(3))
    first, second = criterion(logits, targets.byte()), criterion(logits, shares(targets, 3).float())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_float32_under_mixed_precision():
    logits, targets = random_case(dtype=torch.float32)
    criterion = MapLoss(torch.ones(3))
    plain = criterion(logits.bfloat16(), targets)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = criterion(logits.bfloat16(), targets)
    assert all(value.dtype == torch.float32 for value in mixed.values())
    assert all(torch.equal(plain[name], mixed[name]) for name in plain)


def test_weights_of_the_parts():
    assert MAP_LOSSES["DiceFocalBoundary"] == {"dice": 0.7, "focal": 0.2, "boundary": 0.1}
