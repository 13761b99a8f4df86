"""The two branches: merging by hand, losses, and each branch alone."""

import torch

from losses import LOSSES
from models import build
from models.duo import DuoBranch, merge


def model() -> DuoBranch:
    torch.manual_seed(0)
    return DuoBranch(build("duo_resnet18", 5, 4, 64), LOSSES["BCE"](), (0.1,) * 4, (0.5,) * 4, image_loss=0.5)


def scene(*counts: int) -> dict[str, torch.Tensor]:
    pixels = torch.randint(0, 256, (len(counts) + sum(counts), 4, 64, 64), dtype=torch.uint8)
    return {"images": pixels[: len(counts)], "cells": pixels[len(counts) :], "counts": torch.tensor(counts)}


def test_merging_by_hand():
    """One feature: means of 4 with 1 and 3, of 6 with 0; maxima of 5 with 9 and 2, of 8 with 1."""
    whole, cells = torch.tensor([[4.0, 5.0], [6.0, 8.0]]), torch.tensor([[1.0, 9.0], [3.0, 2.0], [0.0, 1.0]])
    assert merge(whole, cells, torch.tensor([2, 1])).tolist() == [[3.0, 9.0], [3.0, 8.0]]


def test_contract():
    net = model().train()
    targets = torch.eye(5)[:2]
    losses = net(scene(3, 2), targets)
    assert list(losses) == ["loss", "cell_loss", "image_loss"]
    sum(losses.values()).backward()
    assert all(parameter.grad is not None for parameter in net.parameters())

    net.eval()
    images = scene(3, 2)
    out = net(images)
    assert out["probs"].shape == (2, 5)
    assert net(images["cells"])["probs"].shape == (5, 5)  # a cell is judged by itself
    judged = net(images, targets)
    torch.testing.assert_close(judged["probs"], out["probs"])  # as it is judged in training
    torch.testing.assert_close(judged["image_loss"], 0.5 * net.criterion(out["probs"].logit(), targets))


def test_cells_speak_for_their_own_image_only():
    net, images = model().eval(), scene(2, 2)
    before = net(images)["probs"]
    images["cells"][3] = 255 - images["cells"][3]
    after = net(images)["probs"]
    torch.testing.assert_close(before[0], after[0])
    assert not torch.allclose(before[1], after[1])
