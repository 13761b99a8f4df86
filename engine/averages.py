"""The mean of a network's weights over epochs (SWA, Izmailov et al. 2018), by torch's own tools."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn


class _Fed(nn.Module):
    """A model under the contract of `models`, which in training wants the targets, as update_bn calls it."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        return self.model(batch["images"], batch["targets"])


def refresh(average: AveragedModel, batches: Iterable[tuple]) -> None:
    """Recompute the running means of batch norms, which a mean of weights lacks, from (images, targets, index)."""
    update_bn(({"images": images, "targets": targets} for images, targets, _ in batches), _Fed(average.module))
