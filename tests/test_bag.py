"""Pooling of cells to bags by hand and against a slow oracle; the losses and the answers of a bag of cells."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from losses import LOSSES
from models import build
from models.bag import POOLS, SHARPNESS, BagOfCells, BagPool


def model(arch: str = "bag_resnet18", loss: str = "BCE", **options) -> BagOfCells:
    torch.manual_seed(0)
    return BagOfCells(build(arch, 5, 4, 64), LOSSES[loss](), (0.1,) * 4, (0.5,) * 4, **options)


def crops(*counts: int) -> dict[str, torch.Tensor]:
    cells = torch.randint(0, 256, (sum(counts), 4, 64, 64), dtype=torch.uint8)
    return {"cells": cells, "counts": torch.tensor(counts)}


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("max", [logit(0.8), logit(0.5)]),
        ("mean", [logit(0.5), logit(0.5)]),
        ("lse", [math.log((4**4 + 0.25**4) / 2) / 4, logit(0.5)]),
    ],
)
def test_bags_by_hand(rule, expected):
    """Cells of probability .8 and .2 in one bag, of .5 in the other; the exponential of the logits is 4, 1/4 and 1."""
    logits = torch.tensor([[logit(0.8)], [logit(0.2)], [logit(0.5)]])
    bags = BagPool(rule, 2, 1)(logits, torch.zeros(3, 2), torch.tensor([2, 1]))
    torch.testing.assert_close(bags, torch.tensor(expected)[:, None])


def test_attention_looks_where_it_should():
    """Weights of one hidden unit tanh(3f) x sigmoid(3f): by hand for the features 1 and -1."""
    pool = BagPool("attention", 1, 1, hidden=1)
    for layer, weight in ((pool.value, 3.0), (pool.gate, 3.0), (pool.score, 2.0)):
        torch.nn.init.constant_(layer.weight, weight)
        torch.nn.init.zeros_(layer.bias)
    bags = pool(torch.tensor([[logit(0.9)], [logit(0.1)]]), torch.tensor([[1.0], [-1.0]]), torch.tensor([2]))
    scores = [2 * math.tanh(3 * f) / (1 + math.exp(-3 * f)) for f in (1, -1)]
    share = math.exp(scores[0]) / (math.exp(scores[0]) + math.exp(scores[1]))
    assert bags.item() == pytest.approx(logit(0.9 * share + 0.1 * (1 - share)), abs=1e-5)


@pytest.mark.parametrize("rule", POOLS)
@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
@settings(max_examples=10, deadline=None)
def test_pooling_is_that_of_each_bag_alone(rule, counts, seed):
    torch.manual_seed(seed)
    pool, logits, features = BagPool(rule, 3, 2), 4 * torch.randn(sum(counts), 2), torch.randn(sum(counts), 3)
    bags = pool(logits, features, torch.tensor(counts))
    for bag, own, its in zip(bags, logits.split(counts), features.split(counts), strict=True):
        torch.testing.assert_close(bag, oracle(pool, own.double(), its), rtol=1e-4, atol=1e-4)


def oracle(pool: BagPool, logits: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """One bag in double precision, by the formulas as they are written."""
    if pool.rule == "max":
        return logits.max(0).values.float()
    if pool.rule == "lse":
        return ((SHARPNESS * logits).exp().mean(0).log() / SHARPNESS).float()
    weights = torch.full_like(logits, 1 / len(logits))
    if pool.rule == "attention":
        weights = pool.score(pool.value(features).tanh() * pool.gate(features).sigmoid()).double().softmax(0)
    probs = (weights * logits.sigmoid()).sum(0)
    return (probs / (1 - probs)).log().float()


@pytest.mark.parametrize("rule", POOLS)
def test_extreme_logits_stay_finite(rule):
    logits = torch.tensor([[90.0, -90.0], [80.0, -200.0], [300.0, -300.0]], requires_grad=True)
    bags = BagPool(rule, 2, 2)(logits, torch.randn(3, 2), torch.tensor([2, 1]))
    bags.sum().backward()
    assert bags.isfinite().all() and logits.grad.isfinite().all()
    assert (bags[:, 0] > 60).all() and (bags[:, 1] < -60).all()


@pytest.mark.parametrize("rule", POOLS)
def test_contract(rule):
    bags = model(pool=rule).train()
    targets = torch.eye(5)[:3]
    losses = bags(crops(4, 1, 2), targets)
    assert list(losses) == ["loss", "cell_loss"]
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in bags.parameters())

    bags.eval()
    images = crops(4, 1, 2)
    out = bags(images)
    assert out["probs"].shape == (7, 5) and out["image_probs"].shape == (3, 5)
    torch.testing.assert_close(bags(images["cells"])["probs"], out["probs"])  # alone as in a bag
    judged = bags(images, targets)
    assert set(judged) == {"loss", "cell_loss", "probs", "image_probs", "cell_max"}
    torch.testing.assert_close(judged["cell_max"][0], out["probs"][:4].amax(0))
    torch.testing.assert_close(judged["probs"], out["image_probs"])


def test_the_losses_by_hand():
    """The cells' loss is a tenth of the cross-entropy with the label of their image, unknown labels left out."""
    bags = model().eval()
    images, targets = crops(2, 1), torch.tensor([[1.0, 0, 0, 0, torch.nan], [0, 1, 0, 0, 0]])
    with torch.no_grad():
        out, probs = bags(images, targets), bags(images)["probs"].double().numpy()
    truth = targets.numpy()[[0, 0, 1]]
    cells = -np.log(np.where(truth == 1, probs, 1 - probs))
    assert out["cell_loss"].item() == pytest.approx(0.1 * cells[~np.isnan(truth)].mean(), rel=1e-4)
    highest = np.stack([probs[:2].max(0), probs[2]])
    entropy = -np.log(np.where(targets.numpy() == 1, highest, 1 - highest))
    assert out["loss"].item() == pytest.approx(entropy[~np.isnan(targets.numpy())].mean(), rel=1e-4)


def test_exclusive_classes_are_refused():
    with pytest.raises(UserError, match="--loss must not be a CrossEntropy"):
        model(loss="CrossEntropy")
