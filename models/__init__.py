"""Networks by name. Contract: `model(images, targets)` gives a dict of losses, `model(images)` a dict of predictions.

`build("class_densenet121_dropout", ...)` is the published network; every other name is looked up in timm.
"""

from collections.abc import Callable
from difflib import get_close_matches

import timm
from torch import nn

from common.errors import UserError, some
from models.classifier import Classifier
from models.densenet import densenet_dropout

# name -> function(num_classes, in_channels) -> module from normalised images to logits
MODELS: dict[str, Callable[[int, int], nn.Module]] = {
    "class_densenet121_dropout": lambda classes, channels: densenet_dropout("densenet121", classes, channels),
}


def build(arch: str, num_classes: int, in_channels: int, image_size: int) -> nn.Module:
    """A network without trained weights: (N, in_channels, H, W) normalised images to (N, num_classes) logits.

    arch: a name of MODELS or of timm. image_size: pixels, for the networks that need to know it (most transformers).
    """
    if arch in MODELS:
        return MODELS[arch](num_classes, in_channels)
    if not timm.is_model(arch):
        near = get_close_matches(arch, [*MODELS, *timm.list_models()], n=3)
        raise UserError(f"--arch {arch} is neither {', '.join(MODELS)} nor a timm network; near it: {some(near)}")
    options = {"img_size": image_size} if timm.get_pretrained_cfg(arch).fixed_input_size else {}
    return timm.create_model(arch, num_classes=num_classes, in_chans=in_channels, **options)


__all__ = ["MODELS", "Classifier", "build"]
