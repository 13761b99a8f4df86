"""The sum that bestfitting's HPA 2018 networks were trained with."""

import torch
from torch import nn

from losses.focal import Focal
from losses.hard_log import HardLog
from losses.symmetric_lovasz import SymmetricLovasz


class FocalSymmetricLovaszHardLog(nn.Module):
    """Half of the focal loss, half of the symmetric Lovasz hinge, half of the hard-example log loss."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([Focal(), SymmetricLovasz(), HardLog()])

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return sum(part(logits, targets) for part in self.parts) / 2
