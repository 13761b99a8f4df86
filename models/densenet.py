"""The published head on DenseNet features (HPA 2021, 12th place)."""

import timm
import torch
from torch import nn


class DropoutHead(nn.Module):
    """Feature map (N, C, h, w) -> logits: average and max pool side by side, then two dropped-out linear layers."""

    def __init__(self, features: int, num_classes: int, hidden: int = 1024, dropout: float = 0.5):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(2 * features),
            nn.Dropout(dropout),
            nn.Linear(2 * features, hidden),
            nn.ReLU(inplace=True),
            nn.BatchNorm1d(hidden),
            nn.Dropout(dropout),
            nn.Linear(hidden, num_classes),
        )

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return self.layers(torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1))


class FeaturesAndHead(nn.Module):
    """A timm backbone's last feature map and a head on it."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone.forward_features(images))


def densenet_dropout(name: str, num_classes: int, in_channels: int) -> nn.Module:
    """A DenseNet of timm with the published head: FC 2C -> 1024 -> num_classes on average and max pool."""
    backbone = timm.create_model(name, num_classes=0, in_chans=in_channels)
    return FeaturesAndHead(backbone, DropoutHead(backbone.num_features, num_classes))
