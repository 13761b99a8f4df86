"""The published head (HPA 2021, 12th place; bestfitting 2018) on the features of any timm network."""

import timm
import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError
from losses.arc_face import SCALE

ALIASES = {"inceptionv3": "inception_v3"}  # published spellings


def pooled(maps: torch.Tensor) -> torch.Tensor:
    """Feature map (N, C, h, w) -> its averages and maxima side by side, (N, 2C)."""
    return torch.cat([maps.mean((2, 3)), maps.amax((2, 3))], dim=1)


class DropoutHead(nn.Module):
    """Feature map (N, C, h, w) -> logits: average and max pool side by side, then two dropped-out linear layers.

    hidden: width between the two; as many as features (1024 on DenseNet121), as published.
    """

    def __init__(self, features: int, num_classes: int, hidden: int | None = None, dropout: float = 0.5):
        super().__init__()
        hidden = hidden or features
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
        return self.layers(pooled(maps))


class Cosines(nn.Linear):
    """Features (N, C) -> SCALE x the cosine of their angle with each class's direction, (N, K)."""

    def __init__(self, features: int, num_classes: int):
        super().__init__(features, num_classes, bias=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return SCALE * functional.linear(functional.normalize(features), functional.normalize(self.weight))


class FeaturesAndHead(nn.Module):
    """A timm backbone's last feature map and a head on it."""

    def __init__(self, backbone: nn.Module, head: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.head = head

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """(N, channels, H, W) normalised images -> the last feature map (N, C, h, w)."""
        maps = self.backbone.forward_features(images)
        if maps.ndim == 3:  # tokens of a transformer: the image's own, in a column
            return maps[:, getattr(self.backbone, "num_prefix_tokens", 0) :].transpose(1, 2)[..., None]
        return maps.permute(0, 3, 1, 2) if getattr(self.backbone, "output_fmt", "NCHW") == "NHWC" else maps

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


def backbone(name: str, in_channels: int, **options) -> nn.Module:
    """The timm network `name` without a classifier; options: further ones of timm.create_model."""
    net = timm.create_model(ALIASES.get(name, name), num_classes=0, in_chans=in_channels, **options)
    if isinstance(getattr(net, "head", None), nn.Module):
        net.head = nn.Identity()  # what timm would put after the pool; unused weights stop multi-GPU training
    return net


def dropout_network(name: str, num_classes: int, in_channels: int, **options) -> FeaturesAndHead:
    """The timm network `name` with the published head; options: further ones of timm.create_model."""
    core = backbone(name, in_channels, **options)
    return FeaturesAndHead(core, DropoutHead(core.num_features, num_classes))


def arcface_network(name: str, num_classes: int, in_channels: int, **options) -> FeaturesAndHead:
    """The same with cosines for logits, as --loss ArcFace needs them."""
    net = dropout_network(name, num_classes, in_channels, **options)
    net.head.layers[-1] = Cosines(net.head.layers[-1].in_features, num_classes)
    return net


def large_dropout_network(name: str, num_classes: int, in_channels: int, **options) -> FeaturesAndHead:
    """The same with a further 2x2 max pool behind the stem, for images of twice the size (bestfitting 2018)."""
    net = dropout_network(name, num_classes, in_channels, **options)
    for parent, pool in ((getattr(net.backbone, "features", None), "pool0"), (net.backbone, "maxpool")):
        if hasattr(parent, pool):
            setattr(parent, pool, nn.Sequential(getattr(parent, pool), nn.MaxPool2d(2)))
            return net
    raise UserError(f"--arch class_{name}_large_dropout: large networks are DenseNets and ResNets, which pool early")
