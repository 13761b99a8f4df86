"""Attention U-Net (Oktay et al. 2018) on any timm encoder: which class each pixel of an image is of."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from losses.segmentation import MapLoss
from models.pyramid import DEEPEST, feature_maps, make_backbone

STRIDES = (2, 4, 8, 16, 32)
WIDTHS = (256, 128, 64, 64)  # channels of the decoder at strides 16, 8, 4 and 2
LIGHT = (128, 64, 32, 16)  # for a CPU: a step on lite0 takes less than half the time
GROUP = 8  # channels that are normalised together without batches
STEM = 64  # channels of a map of stride 2 of our own, for encoders without one


class AttentionUNet(nn.Module):
    """Images in; losses or class maps out. See `attention_unet` for what the arguments mean."""

    def __init__(self, backbone: nn.Module, widths: dict[int, int], decoder: Sequence[int], maps: int,
                 mean: Sequence[float], std: Sequence[float], criterion: nn.Module, dropout: float,
                 checkpointing: bool, norm: Callable[[int], nn.Module]):  # fmt: skip
        super().__init__()
        self.backbone, self.criterion, self.checkpointing = backbone, criterion, checkpointing
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) * 255)
        self.stem = None if 2 in widths else conv_block(len(mean), STEM, norm, stride=2)
        skips = [widths.get(stride, STEM) for stride in (16, 8, 4, 2)]
        self.decoder = nn.ModuleList(map(partial(UpBlock, norm=norm), (widths[32], *decoder[:-1]), skips, decoder))
        self.last = nn.ConvTranspose2d(decoder[-1], decoder[-1], 2, 2)
        self.head = nn.Sequential(
            norm(decoder[-1]),
            nn.SiLU(inplace=True),  # with a ReLU all channels may fall silent on the rarer classes, for long
            nn.Dropout2d(dropout), nn.Conv2d(decoder[-1], maps, 1),
        )  # fmt: skip
        self.to(memory_format=torch.channels_last)

    def forward(self, images: torch.Tensor, targets: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """images (N, C, H, W), uint8 or float in 0..255 (or what the competition's `prepare_image` makes of them), of
        any size. targets (N, H, W) integer class maps, or (N, K, H, W) shares of the classes where images are mixed.

        Training: the losses, weighted, to be added up. Evaluation: "map", the probabilities (N, K, H, W), float32.
        """
        height, width = images.shape[2:]
        images = ((images.float() - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        images = functional.pad(images, (0, -width % DEEPEST, 0, -height % DEEPEST))
        logits = self.logits(images)[..., :height, :width].float()
        return self.criterion(logits, targets) if self.training else {"map": logits.softmax(1)}

    def logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K, H, W) of normalised images whose sides are multiples of 32."""
        again = self.checkpointing and self.training
        maps = recomputed(self.maps, self.backbone)(images) if again else self.maps(images)
        if self.stem is not None:
            maps = {**maps, 2: self.stem(images)}
        x = maps[32]
        for block, stride in zip(self.decoder, (16, 8, 4, 2), strict=True):
            inputs = x, maps[stride]
            x = recomputed(block, block)(*inputs) if again else block(*inputs)
        return self.head(self.last(x))

    def maps(self, images: torch.Tensor) -> dict[int, torch.Tensor]:
        """The encoder's maps by stride."""
        return feature_maps(self.backbone, images)


def recomputed(function: Callable, module: nn.Module) -> Callable:
    """`function`, which runs `module`, without keeping what its gradients need: that is computed once more. The batch
    norms count the batch the first time only.
    """
    contexts = lambda: (nullcontext(), statistics_kept(module))  # noqa: E731
    return partial(checkpoint, function, use_reentrant=False, context_fn=contexts)


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms go by their batch as in training, but keep their running statistics as they are."""
    norms = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    norms = [layer for layer in norms if layer.track_running_stats]
    before = [(layer.momentum, layer.num_batches_tracked.clone()) for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    try:
        yield
    finally:  # torch stops the computation by an exception when it has what it needs
        for layer, (momentum, count) in zip(norms, before, strict=True):
            layer.momentum = momentum
            layer.num_batches_tracked.copy_(count)


class UpBlock(nn.Module):
    """Twice the size by a deconvolution, joined with what the attention gate leaves of the skip, two convolutions."""

    def __init__(self, channels: int, skip: int, width: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.up = nn.ConvTranspose2d(channels, width, 2, 2)
        self.gate = AttentionGate(width, skip, width // 2, norm)
        self.convs = nn.Sequential(conv_block(width + skip, width, norm), conv_block(width, width, norm))

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """x (N, channels, h, w), skip (N, skip, 2 h, 2 w) -> (N, width, 2 h, 2 w)."""
        x = self.up(x)
        return self.convs(torch.cat([self.gate(x, skip), x], dim=1))


class AttentionGate(nn.Module):
    """Additive attention: a weight in 0..1 for each pixel of a skip, from the skip and from what is to be joined."""

    def __init__(self, gate: int, skip: int, inner: int, norm: Callable[[int], nn.Module]):
        super().__init__()
        self.of_gate = nn.Sequential(nn.Conv2d(gate, inner, 1), norm(inner))
        self.of_skip = nn.Sequential(nn.Conv2d(skip, inner, 1), norm(inner))
        self.weight = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(inner, 1, 1), norm(1), nn.Sigmoid())

    def forward(self, gate: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        """The skip (N, skip, h, w), weighted pixel by pixel."""
        return skip * self.weight(self.of_gate(gate) + self.of_skip(skip))


def conv_block(channels: int, width: int, norm: Callable[[int], nn.Module], stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, width, 3, stride, 1, bias=False), norm(width), nn.ReLU(inplace=True))


def group_norm(channels: int) -> nn.Module:
    """A normalisation of each image by itself; of a single channel none, which would lose how much there is."""
    return nn.GroupNorm(channels // GROUP, channels) if channels >= GROUP else nn.Identity()


def attention_unet(
    name: str,
    num_classes: int,
    in_channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    decoder: Sequence[int] = WIDTHS,
    criterion: nn.Module | None = None,
    dropout: float = 0.1,
    checkpointing: bool = False,
    norm: Callable[[int], nn.Module] = nn.BatchNorm2d,
    **options,
) -> AttentionUNet:
    """An attention U-Net without trained weights; `model.backbone` is the timm network, which may learn slower.

    name: a timm network with maps of the strides 4 to 32; one of stride 2, too, as the published ResNet34, or a
    convolution of our own makes it. num_classes: without the background, whose map is one more, the last. mean, std: of
    pixels in 0..1, one number a channel. decoder: its channels at the strides 16, 8, 4 and 2. criterion: (logits,
    targets) -> dict of losses; None weighs all classes alike. dropout: of whole channels before the last convolution.
    checkpointing: compute the maps again for the gradients, to save memory. norm: the decoder's normalisation of so
    many channels. options: for timm.
    """
    backbone, widths = make_backbone(name, in_channels, STRIDES, **options)
    criterion = criterion or MapLoss(torch.ones(num_classes + 1))
    return AttentionUNet(backbone, widths, decoder, num_classes + 1, mean, std, criterion, dropout, checkpointing, norm)
