"""Feature maps by stride from any convolutional network of timm, with the weights named as in the plain network."""

from collections.abc import Sequence

import timm
import torch
from torch import nn

from common.errors import UserError

DEEPEST = 32  # pixels of an image that a pixel of the last map stands for


def make_backbone(name: str, in_channels: int, strides: Sequence[int], **options) -> tuple[nn.Module, dict[int, int]]:
    """A timm network without trained weights, and how many channels its map of each stride in `strides` has.

    A map of stride 2 may be missing (ConvNeXt). Weights that none of these maps needs (the classifier's last layers) do
    not require a gradient. options: for timm. UserError when another map is missing.
    """
    try:
        backbone = timm.create_model(name, num_classes=0, in_chans=in_channels, **options)
        maps = feature_maps(backbone.eval(), torch.zeros(1, in_channels, 2 * DEEPEST, 2 * DEEPEST))
        missing = [stride for stride in strides if stride not in maps and stride > 2]
        if missing:
            raise ValueError(f"it has no map of stride {missing[0]}")
        if any(maps[stride].shape[-1] * stride != 2 * DEEPEST for stride in strides if stride in maps):
            raise ValueError("its maps lack pixels at the border")  # convolutions without padding, as in Xception
    except (AssertionError, AttributeError, RuntimeError, TypeError, ValueError) as error:
        raise UserError(
            f"--arch: {name} cannot be a backbone ({error}); it needs a convolutional network of timm with maps of the "
            f"strides {', '.join(map(str, strides))}, such as resnet34, tf_efficientnet_lite0 or convnext_tiny"
        ) from error
    sum(one.sum() for one in maps.values()).backward()
    for weight in backbone.parameters():
        weight.requires_grad_(weight.grad is not None)
        weight.grad = None
    return backbone.train(), {stride: maps[stride].shape[1] for stride in strides if stride in maps}


def feature_maps(backbone: nn.Module, images: torch.Tensor) -> dict[int, torch.Tensor]:
    """The last map (N, c, H / stride, W / stride) of each stride; the sides of the images must be multiples of 32."""
    stages = backbone.forward_intermediates(images, intermediates_only=True, output_fmt="NCHW")
    return {images.shape[-1] // stage.shape[-1]: stage for stage in stages}
