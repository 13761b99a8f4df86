"""Losses against numbers worked out by hand and against plain loops in double precision."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from losses import LOSSES, build_loss
from losses.arc_face import ArcFace
from losses.bce import BCE
from losses.focal import Focal
from losses.focal_symmetric_lovasz_hard_log import FocalSymmetricLovaszHardLog
from losses.hard_log import HardLog
from losses.l1 import L1
from losses.l2 import L2
from losses.roc_star import ROCStar, margin, mean_excess
from losses.symmetric_lovasz import SymmetricLovasz, lovasz_hinge
from losses.weighted_focal import WeightedFocal

LOG2 = math.log(2)


def test_bce_by_hand():
    logits = torch.tensor([[0.0, math.log(3)]])  # probabilities 1/2 and 3/4
    loss = BCE()(logits, torch.tensor([[1.0, 0.0]]))
    assert loss.item() == pytest.approx((LOG2 + math.log(4)) / 2)


def test_focal_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, 0.0]])
    targets = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    # (1 - p_t)^2 x -log p_t: 1/4 log 2, 9/16 log 4; second row twice 1/4 log 2; sum over classes, mean of two rows
    expected = (0.25 * LOG2 + 9 / 16 * math.log(4) + 0.5 * LOG2) / 2
    assert Focal()(logits, targets).item() == pytest.approx(expected)


def test_focal_with_gamma_0_is_summed_bce():
    torch.manual_seed(0)
    logits, targets = torch.randn(5, 7), torch.randint(0, 2, (5, 7)).float()
    torch.testing.assert_close(Focal(gamma=0)(logits, targets), 7 * BCE()(logits, targets))


def test_weighted_focal_by_hand():
    logits = torch.tensor([[0.0, math.log(3)]])
    targets = torch.tensor([[1.0, 0.0]])
    loss = WeightedFocal([1.0, 3.0])(logits, targets)
    assert loss.item() == pytest.approx((0.25 * LOG2 + 3 * 9 / 16 * math.log(4)) / 4)
    torch.testing.assert_close(WeightedFocal()(logits, targets), Focal()(logits, targets) / 2)


def test_l1_and_l2_by_hand():
    logits = torch.tensor([[0.0, math.log(3), 0.0]])  # 1/2, 3/4, 1/2
    targets = torch.tensor([[1.0, 0.25, math.nan]])
    assert L1()(logits, targets).item() == pytest.approx((1 / 2 + 1 / 2) / 2)
    assert L2()(logits, targets).item() == pytest.approx((1 / 4 + 1 / 4) / 2)


def test_lovasz_hinge_by_hand():
    # Errors 1 -+ logit: 1.5 (a positive), 1.2 and .3 (negatives). 1 - IoU as they turn wrong one by one, in that order:
    # the positive missed: 1 - 0/1 = 1, then it stays 1. Its absence, set of two: errors as before, 1 - 2/3 = 1/3,
    # 1 - 1/3 = 2/3, 1 - 0/3 = 1.
    logits, targets = torch.tensor([[-0.5], [0.2], [-0.7]]), torch.tensor([[1.0], [0.0], [0.0]])
    assert lovasz_hinge(logits, targets).item() == pytest.approx(1.5)
    assert lovasz_hinge(-logits, 1 - targets).item() == pytest.approx((1.5 + 1.2 + 0.3) / 3)
    assert SymmetricLovasz()(logits, targets).item() == pytest.approx((1.5 + 1.0) / 2)


def test_hard_log_by_hand():
    # One positive, eight negatives: min(8, 1 + 4, 5 + 2) = 5 of them count, those with the highest logits.
    negatives = [-1.0, 2.0, 0.0, -3.0, 1.0, -2.0, -4.0, 3.0]
    logits = torch.tensor([[0.5], *([value] for value in negatives)])
    targets = torch.tensor([[1.0]] + [[0.0]] * 8)
    parts = [math.log1p(math.exp(-0.5)), *(math.log1p(math.exp(value)) for value in (3, 2, 1, 0, -1))]
    assert HardLog()(logits, targets).item() == pytest.approx(sum(parts) / 6)


def slow_arc_face(cosine: float, truth: float) -> float:
    angle = math.acos(cosine)
    margin = 0.5 * truth
    moved = math.cos(angle + margin) if angle + margin < math.pi else cosine - margin * math.sin(margin)
    return math.log1p(math.exp(-30 * moved)) * truth + math.log1p(math.exp(30 * moved)) * (1 - truth)


@pytest.mark.parametrize("cosine", [-0.99, -0.87, -0.3, 0.0, 0.6, 0.99])
@pytest.mark.parametrize("truth", [0.0, 0.4, 1.0])
def test_arc_face_by_its_formula(cosine, truth):
    loss = ArcFace()(torch.tensor([[30 * cosine]]), torch.tensor([[truth]])).item()
    assert loss == pytest.approx(slow_arc_face(cosine, truth), rel=1e-4, abs=1e-6)


def test_roc_star_by_hand():
    loss = ROCStar(num_classes=1, gamma=0.3).eval()
    logits = torch.tensor([[0.8], [0.6], [0.1]]).logit()
    # Positive .8: .6 comes within .3 by .1, .1 does not: mean .01 / 2. Negative .6: .1^2. Negative .1: 0.
    targets = torch.tensor([[1.0], [0.0], [0.0]])
    assert loss(logits, targets).item() == pytest.approx((0.005 + 0.01) / 3, rel=1e-4)


def test_roc_star_margin_by_hand():
    scores = torch.tensor([0.9, 0.4, 0.5, 0.2, 0.1])
    truths = torch.tensor([1.0, 1.0, 0.0, 0.0, math.nan])
    # Pairs positive - negative: .4, .7 and -.1, .2. Well ordered: .2, .4, .7; badly: one, so place 0.
    before = torch.tensor(0.25)
    assert margin(scores, truths, before, 2).item() == pytest.approx(0.2)
    scores[0] = 0.45  # -.05, .25, -.1, .2: two badly ordered, place 2, but there are two well ordered only
    assert margin(scores, truths, before, 2).item() == pytest.approx(0.25)
    assert margin(1 - scores, torch.tensor([1.0, 1, 1, 1, 1]), before, 2) == before


def test_roc_star_s_running_sums_are_those_of_all_pairs():
    torch.manual_seed(0)
    others, counted = torch.rand(300, 4).round(decimals=2), torch.rand(300, 4) < 0.2
    counted[:, 3] = False
    points = torch.rand(7, 4).round(decimals=2).requires_grad_()
    pairs = (others[:, None] - points).relu() ** 2 * counted[:, None]
    expected = pairs.sum(0) / counted.sum(0).clamp(min=1)
    ours = mean_excess(others, counted, points)
    torch.testing.assert_close(ours, expected)
    for result in (ours, expected):
        result.sum().backward()
        points.grad, slope = None, points.grad
        torch.testing.assert_close(slope, -2 * (others[:, None] - points).relu().mul(counted[:, None]).sum(0).div(
            counted.sum(0).clamp(min=1)).detach())  # fmt: skip


def slow_roc_star(others: list, batch: list, gamma: float) -> float:
    """Sum over a class's batch (score, truth) of the mean over the others of the other kind, in plain Python."""
    total = 0.0
    for score, truth in batch:
        pairs = [(s, score) if truth else (score, s) for s, t in others + batch if t != truth]
        losses = [max(0.0, negative - positive + gamma) ** 2 for negative, positive in pairs]
        total += sum(losses) / len(losses) if losses else 0.0
    return total


def test_roc_star_remembers_like_a_plain_loop():
    """Batches of 3 into a memory of 4, two classes: the loss and the margins, which change on every turn."""
    torch.manual_seed(1)
    loss = ROCStar(num_classes=2, memory=4, delta=1.5)
    memory: list[list] = []
    margins = [0.2, 0.2]
    for step in range(6):
        logits, targets = torch.randn(3, 2), torch.randint(0, 2, (3, 2)).float()
        columns = torch.stack([logits.double().sigmoid(), targets.double()], 2).tolist()
        expected = sum(
            slow_roc_star([row[k] for row in memory], [row[k] for row in columns], margins[k]) for k in (0, 1)
        )
        assert loss(logits, targets).item() == pytest.approx(expected / 6, rel=1e-5)
        memory = (memory + columns)[-4:]
        if (3 * step + 3) // 4 > 3 * step // 4:
            margins = [slow_margin([row[k] for row in memory], margins[k], 1.5) for k in (0, 1)]
        assert loss.margins.tolist() == pytest.approx(margins, rel=1e-5)


def slow_margin(column: list, before: float, delta: float) -> float:
    gaps = [a - b for a, positive in column if positive for b, other in column if not other]
    right = sorted(gap for gap in gaps if gap > 0)
    wrong = sum(gap < 0 for gap in gaps)
    return right[min(int(delta * max(wrong - 1, 0)), len(right) - 1)] if right else before


def test_roc_star_goes_on_from_its_saved_state():
    torch.manual_seed(2)
    batches = [(torch.randn(5, 3), torch.randint(0, 2, (5, 3)).float()) for _ in range(6)]
    first = ROCStar(3, memory=8)
    losses = [first(*batch) for batch in batches[:3]]
    second = ROCStar(3, memory=8)
    second.load_state_dict(first.state_dict())
    assert [second(*batch) for batch in batches[3:]] == [first(*batch) for batch in batches[3:]]
    assert len(set(losses)) == 3
    before = first.scores.clone(), first.seen.clone()
    first.eval()(*batches[0])
    assert torch.equal(first.scores, before[0]) and torch.equal(first.seen, before[1])


def slow_lovasz(logits: list[float], truth: list[float]) -> float:
    """The Lovasz extension by its definition: 1 - IoU of the growing set of wrong samples, in order of their errors."""
    errors = [1 - logit * (2 * t - 1) for logit, t in zip(logits, truth, strict=True)]
    order = sorted(range(len(errors)), key=lambda index: -errors[index])
    total = before = 0.0
    for place in range(len(order)):
        wrong = order[: place + 1]
        union = sum(truth) + sum(1 - truth[index] for index in wrong)
        lost = 1 - (sum(truth) - sum(truth[index] for index in wrong)) / union
        total, before = total + max(errors[order[place]], 0) * (lost - before), lost
    return total


def slow_hard_log(logits: list[float], truth: list[float]) -> float:
    def entropy(logit: float, t: float) -> float:
        return math.log1p(math.exp(logit)) - t * logit

    pairs = list(zip(logits, truth, strict=True))
    positives = [pair for pair in pairs if pair[1] >= 0.5]
    negatives = sorted((pair for pair in pairs if pair[1] < 0.5), reverse=True)
    count = min(len(negatives), len(positives) + max(2, len(negatives) // 2), len(negatives) * 7 // 10 + 2)
    chosen = positives + negatives[:count]
    return sum(entropy(*pair) for pair in chosen) / len(chosen)


@given(rows=st.integers(1, 9), classes=st.integers(1, 4), soft=st.booleans(), seed=st.integers(0, 999))
@settings(max_examples=40, deadline=None)
def test_sums_over_a_batch_are_those_of_plain_loops(rows, classes, soft, seed):
    """Lovasz, hard log and their sum with focal, with unknown targets, in double precision."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(rows, classes, generator=generator)
    targets = torch.rand(rows, classes, generator=generator)
    targets = targets if soft else targets.round()
    targets[torch.rand(rows, classes, generator=generator) < 0.2] = torch.nan
    lovasz, hard = [], []
    for k in range(classes):
        known = targets[:, k].isfinite()
        if not known.any():
            continue
        column, truth = logits[known, k].double(), targets[known, k].double()
        there = slow_lovasz(column.tolist(), truth.tolist())
        absent = slow_lovasz((-column).tolist(), (1 - truth).tolist())
        lovasz.append((there + absent) / 2)
        hard.append(slow_hard_log(column.tolist(), truth.tolist()))
    lovasz_mean, hard_mean = (sum(values) / max(len(values), 1) for values in (lovasz, hard))
    assert SymmetricLovasz()(logits, targets).item() == pytest.approx(lovasz_mean, rel=1e-4, abs=1e-6)
    assert HardLog()(logits, targets).item() == pytest.approx(hard_mean, rel=1e-4, abs=1e-6)
    expected = (Focal()(logits, targets).item() + lovasz_mean + hard_mean) / 2
    assert FocalSymmetricLovaszHardLog()(logits, targets).item() == pytest.approx(expected, rel=1e-4, abs=1e-6)


EXCLUSIVE = ("CrossEntropy", "WeightedCrossEntropy")


@pytest.mark.parametrize("name", [name for name in LOSSES if name not in EXCLUSIVE])
def test_every_loss(name):
    """Finite at extreme logits, lowest at the truth, blind to unknown targets, differentiable.

    Two samples that differ in every class, because a loss of pairs (ROCStar) has nothing to say about one alone.
    """
    loss = build_loss(name, [1.0, 1.0, 1.0])
    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    assert loss(160 * targets - 80, targets) < 1e-6 < loss(80 - 160 * targets, targets) < math.inf
    half = loss(80 - 160 * targets, torch.full((2, 3), 0.5))
    assert half.isfinite() and half >= 0

    loss = build_loss(name, [1.0, 1.0, 1.0])
    unknown = torch.tensor([[1.0, 0.0, math.nan], [0.0, 1.0, math.nan]])
    logits = (0.1 * torch.randn(2, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss(logits, unknown).backward()
    assert (logits.grad[:, 2] == 0).all() and logits.grad.isfinite().all() and (logits.grad[:, :2].abs() > 0).all()
    nothing = loss(logits, torch.full((2, 3), math.nan))
    nothing.backward()
    assert nothing == 0 and logits.grad.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_trained_down(name):
    """A few steps of gradient descent from a wrong start order the samples rightly."""
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    logits = (0.5 - targets).requires_grad_()
    loss, optimizer = build_loss(name, [1.0, 1.0]), torch.optim.Adam([logits], lr=0.1)
    for _ in range(40):
        optimizer.zero_grad()
        loss(logits, targets).backward()
        optimizer.step()
    assert (logits[targets == 1].min() > logits[targets == 0].max()).item()


def test_unknown_loss_lists_the_choices():
    with pytest.raises(UserError, match="--loss Triplet is not known; choose from: BCE, Focal, WeightedFocal"):
        build_loss("Triplet", [1.0])


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_cross_entropy_is_torchs(seed):
    """Against torch's own, with weights and smoothing; the weighted mean is over the weights of the targets."""
    generator = torch.Generator().manual_seed(seed)
    logits, labels = torch.randn(5, 3, generator=generator), torch.randint(3, (5,), generator=generator)
    weights, hot = torch.tensor([1.0, 2.0, 0.5]), torch.eye(3)[labels]
    plain = build_loss("CrossEntropy", weights)(logits, hot)
    torch.testing.assert_close(plain, torch.nn.functional.cross_entropy(logits, labels))
    weighted = build_loss("WeightedCrossEntropy", weights, 0.1)(logits, hot)
    torch.testing.assert_close(
        weighted, torch.nn.functional.cross_entropy(logits, labels, weights, label_smoothing=0.1)
    )


@pytest.mark.parametrize("name", EXCLUSIVE)
def test_cross_entropy_leaves_unknown_samples_out(name):
    loss, logits = build_loss(name, [1.0, 1.0]), torch.zeros(2, 2, requires_grad=True)
    assert loss(logits, torch.tensor([[1.0, 0.0], [math.nan, 0.0]])).item() == pytest.approx(math.log(2))
    nothing = loss(logits, torch.full((2, 2), math.nan))
    nothing.backward()
    assert nothing == 0 and logits.grad.isfinite().all()


def test_smoothing_belongs_to_cross_entropy():
    with pytest.raises(UserError, match="--label_smoothing 0.1 belongs to CrossEntropy"):
        build_loss("BCE", [1.0], 0.1)
