"""The HPA Cell Segmentator's network: a U-Net on a DPN-92, with the state keys of the published weight files.

DPN: Chen et al. 2017, "Dual Path Networks". The U-Net is that of the winners of the Data Science Bowl 2018, whose
layout the published files keep: five encoder stages (strides 2 to 32), per decoder stage a doubling of the size
(nearest), a 3x3 convolution and a bottleneck over the stage and its skip connection, a last doubling, three classes.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

from common.errors import UserError, some

FILTERS = (64, 336, 704, 1552, 2688)  # channels after each encoder stage
STRIDE = 32

# DPN-92, stages 2 to 5: blocks, channels of the residual path, growth of the dense path
STAGES = ((3, 256, 16), (4, 512, 32), (20, 1024, 24), (3, 2048, 128))
GROUPS, WIDTH = 32, 96


class NormConv(nn.Module):
    """Batch norm, ReLU, convolution without bias: the published keys are `bn.*` and `conv.weight`."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1):
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs, eps=0.001)
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(functional.relu(self.bn(x)))


class JoinNorm(nn.Module):
    """The two paths joined, batch norm, ReLU: the end of the encoder."""

    def __init__(self, inputs: int):
        super().__init__()
        self.bn = nn.BatchNorm2d(inputs, eps=0.001)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.bn(x))


class DualPathBlock(nn.Module):
    """A residual path of fixed width and a dense path that grows, kept side by side in one tensor (N, C, H, W).

    residual: channels of the residual path; growth: channels that the dense path gains. The first block of a stage
    (`shortcut` "w_s1", or "w_s2" to halve the size) starts both paths anew from its input.
    """

    def __init__(self, inputs: int, width: int, residual: int, growth: int, shortcut: str | None):
        super().__init__()
        stride = 2 if shortcut == "w_s2" else 1
        self.residual, self.shortcut = residual, shortcut and f"c1x1_{shortcut}"
        if shortcut:
            self.add_module(self.shortcut, NormConv(inputs, residual + 2 * growth, stride=stride))
        self.c1x1_a = NormConv(inputs, width)
        self.c3x3_b = NormConv(width, width, 3, stride, GROUPS)
        self.c1x1_c = NormConv(width, residual + growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        old = self.get_submodule(self.shortcut)(x) if self.shortcut else x
        new = self.c1x1_c(self.c3x3_b(self.c1x1_a(x)))
        split = self.residual
        return torch.cat([old[:, :split] + new[:, :split], old[:, split:], new[:, split:]], dim=1)


class Bottleneck(nn.Module):
    """A decoder stage's map and the encoder's of the same size, joined by a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.seq = nn.Sequential(nn.Conv2d(2 * channels, channels, 3, padding=1), nn.ReLU(inplace=True))

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.seq(torch.cat([x, skip], dim=1))


class Doubling(nn.Module):
    """Twice the size by repeating pixels, 3x3 convolution, ReLU."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.layer = nn.Sequential(
            nn.Upsample(scale_factor=2), nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def encoder_stages(in_channels: int = 3) -> nn.ModuleList:
    """DPN-92 without its classifier as five stages, with FILTERS channels at strides 2, 4, 8, 16 and 32."""
    stem = nn.Conv2d(in_channels, FILTERS[0], 7, stride=2, padding=3, bias=False)
    stages = [nn.Sequential(stem, nn.BatchNorm2d(FILTERS[0], eps=0.001), nn.ReLU(inplace=True))]
    inputs = FILTERS[0]
    for number, (blocks, residual, growth) in enumerate(STAGES):
        layers = [nn.MaxPool2d(3, stride=2, padding=1)] if number == 0 else []
        for block in range(blocks):
            shortcut = None if block else "w_s2" if number else "w_s1"
            layers.append(DualPathBlock(inputs, WIDTH * 2**number, residual, growth, shortcut))
            inputs = residual + (block + 3) * growth
        stages.append(nn.Sequential(*layers))
    stages[-1].append(JoinNorm(inputs))
    return nn.ModuleList(stages)


class DpnUnet(nn.Module):
    """Images (N, in_channels, H, W), normalised, of any size, to logits (N, classes, H, W).

    The image is reflected at its lower and right side up to a multiple of 32 pixels; the logits are cut back.
    """

    def __init__(self, classes: int = 3, in_channels: int = 3):
        super().__init__()
        self.bottlenecks = nn.ModuleList(Bottleneck(channels) for channels in FILTERS[-2::-1])
        self.decoder_stages = nn.ModuleList(Doubling(deep, flat) for flat, deep in pairwise(FILTERS))
        self.last_upsample = Doubling(FILTERS[0], FILTERS[0])
        self.final = nn.Sequential(nn.Conv2d(FILTERS[0], classes, 3, padding=1))
        self.encoder_stages = encoder_stages(in_channels)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        x = pad_to_stride(images)
        skips = []
        for stage in self.encoder_stages:
            x = stage(x)
            skips.append(x)
        skips.pop()
        for bottleneck, stage in zip(self.bottlenecks, reversed(self.decoder_stages), strict=True):
            x = bottleneck(stage(x), skips.pop())
        return self.final(self.last_upsample(x))[:, :, :height, :width]


def pad_to_stride(images: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W) reflected at the lower and right side to the next multiple of 32 pixels."""
    for axis in (2, 3):
        images = reflect(images, axis, 0, -images.shape[axis] % STRIDE)
    return images


def reflect(images: torch.Tensor, axis: int, before: int, after: int) -> torch.Tensor:
    """`images` longer by `before` and `after` along an axis: mirrored, edge pixel included, as often as need be."""
    if before == after == 0:
        return images
    size = images.shape[axis]
    there_and_back = torch.arange(-before, size + after, device=images.device) % (2 * size)
    return images.index_select(axis, torch.minimum(there_and_back, 2 * size - 1 - there_and_back))


def dpn_unet(weights: dict[str, torch.Tensor], source: str) -> DpnUnet:
    """The network with `weights` (from `source`, for messages), ready to predict.

    UserError when a weight is missing, superfluous or of another shape. Old files lack the batch norms' counters.
    """
    with torch.device("meta"):  # shapes without memory
        net = DpnUnet()
    own = net.state_dict()
    counters = {name: torch.tensor(0) for name in own if name.endswith("num_batches_tracked")}
    missing = own.keys() - counters.keys() - weights.keys()
    extra = weights.keys() - own.keys()
    if missing or extra:
        lacks = f"it lacks {some(sorted(missing))}" if missing else f"it also has {some(sorted(extra))}"
        raise UserError(
            f"{source} does not hold the weights of the HPA Cell Segmentator's DPN-92 U-Net: {lacks}; "
            "dpn_unet_nuclei_v1.pth or dpn_unet_cell_3ch_v1.pth is right"
        )
    for name in own.keys() & weights.keys():
        if weights[name].shape != own[name].shape:
            shapes = f"{tuple(weights[name].shape)}, not {tuple(own[name].shape)}"
            raise UserError(f"{source}: the weight {name} has the shape {shapes} as in a DPN-92 U-Net of 3 classes")
    net.load_state_dict({**counters, **weights}, assign=True)
    return net.float().requires_grad_(False).eval()
