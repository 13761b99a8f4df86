"""Means of a network's weights, by torch's own tools: running (EMA), and over epochs (SWA, Izmailov et al. 2018)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn


class _Fed(nn.Module):
    """A model under the contract of `models`, which in training wants the targets, as update_bn calls it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return self.model(batch["images"], batch["targets"])


def running_mean(model: nn.Module, decay: float) -> AveragedModel:
    """The running mean of a model's weights and buffers; its `module` has them.

    The n-th step's decay is 1 - n^(-2/3) until that reaches `decay`, so that the first weights are soon forgotten.
    """

    def update(means: list[torch.Tensor], values: list[torch.Tensor], steps: torch.Tensor) -> None:
        get_ema_multi_avg_fn(min(decay, 1 - (1 + float(steps)) ** (-2 / 3)))(means, values, steps)

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def refresh(average: AveragedModel, batches: Iterable[tuple]) -> None:
    """Recompute the running means of batch norms, which a mean of weights lacks, from (images, targets, index)."""
    update_bn(({"images": images, "targets": targets} for images, targets, _ in batches), _Fed(average.module))
