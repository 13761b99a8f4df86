"""Networks by name. Contract: `model(images, targets)` gives a dict of losses in training, and in evaluation
`model(images)` gives what it predicts: classifiers {"probs"}, networks of class maps {"map"}, detectors a list of
dicts, one an image, of "boxes", "scores", "labels" and, where `finds_masks` says so, "masks".

`class_<timm>_dropout` is the published head on any timm network (`class_densenet121_dropout` the published network);
`class_<timm>_cam` has activation maps for a head (PuzzleCAM); `bag_`, `pooled_` and `duo_<timm>` are trained on the
cells of an image together. Every other name is looked up in timm.
"""

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from functools import partial

import timm
from torch import nn

from common.errors import UserError, some
from models.attention_unet import LIGHT, attention_unet, group_norm
from models.bag import BagOfCells
from models.centernet import centernet
from models.classifier import Classifier
from models.dropout import ALIASES, arcface_network, dropout_network, large_dropout_network
from models.duo import DuoBranch
from models.mask_pooled import MaskPooled
from models.mask_rcnn import mask_rcnn
from models.puzzle import PuzzleCAM, cam_network
from models.yolox import yolox

# form of a name, <timm> = any network of timm -> function(timm's name, num_classes, in_channels, **options of timm),
# which gives a module from normalised images to logits
MODELS: dict[str, Callable[..., nn.Module]] = {
    "class_<timm>_dropout": dropout_network,
    "class_<timm>_large_dropout": large_dropout_network,
    "class_<timm>_arcface": arcface_network,
    "class_<timm>_cam": cam_network,
    "bag_<timm>": dropout_network,
    "pooled_<timm>": dropout_network,
    "duo_<timm>": dropout_network,
    "<timm>": lambda name, classes, channels, **options: timm.create_model(
        name, num_classes=classes, in_chans=channels, **options
    ),
}
# What makes such a network a model under the contract, where that is not Classifier.
WRAPPERS: dict[str, type[Classifier]] = {
    "class_<timm>_cam": PuzzleCAM,
    "bag_<timm>": BagOfCells,
    "pooled_<timm>": MaskPooled,
    "duo_<timm>": DuoBranch,
}

# Networks that find cells -> what makes them: (timm's name or the size, num_classes, in_channels, mean, std, **options)
DETECTORS: dict[str, Callable[..., nn.Module]] = {
    "centernet_fpn_<timm>": partial(centernet, skips=True),
    "centernet_<timm>": centernet,
    "maskrcnn_light_<timm>": partial(mask_rcnn, channels=128, representation=256, rois=128),
    "maskrcnn_<timm>": mask_rcnn,
    "yolox_<size>": lambda size, *rest, **options: yolox(f"yolox_{size}", *rest, **options),
}
# Networks that say which class each pixel is of -> the same; the background's map, one more, is the last
SEGMENTERS: dict[str, Callable[..., nn.Module]] = {
    "unet_light_<timm>": partial(attention_unet, decoder=LIGHT, norm=group_norm),
    "unet_<timm>": attention_unet,
}
ARCHITECTURES = (*DETECTORS, *SEGMENTERS, *MODELS)


def task_of(arch: str) -> str:
    """The kind of training that a network needs: classify, detect or segment."""
    if _match(SEGMENTERS, arch):
        return "segment"
    return "detect" if _match(DETECTORS, arch) else "classify"


def finds_masks(arch: str) -> bool:
    """Whether a detector gives masks with its boxes."""
    return arch.startswith("maskrcnn_")


def build_detector(
    arch: str, num_classes: int, in_channels: int, mean: Sequence[float], std: Sequence[float], **options
) -> nn.Module:
    """A detector, or a network of class maps, without trained weights, under the contract of this folder."""
    make, name = _match(DETECTORS | SEGMENTERS, arch)
    return make(name, num_classes, in_channels, mean, std, **options)


def _match(forms: dict[str, Callable], arch: str) -> tuple[Callable, str] | None:
    """The function of the first form that `arch` has, and what stands for <...> in it, if it has that."""
    for form, make in forms.items():
        match = re.fullmatch(re.sub("<.*>", "(.+)", form), arch)
        if match:
            return make, "".join(match.groups())
    return None


def wrapper_of(arch: str) -> type[Classifier]:
    """The class that makes the network `arch` a model."""
    found = _match(WRAPPERS, arch)
    return found[0] if found else Classifier


def build(arch: str, num_classes: int, in_channels: int, image_size: int, **options) -> nn.Module:
    """A network without trained weights: (N, in_channels, H, W) normalised images to (N, num_classes) logits.

    arch: a name of one of the forms of MODELS. image_size: pixels, for the networks that need to know it (most
    transformers). options: of timm.
    """
    make, name = resolve(arch)
    if name and timm.get_pretrained_cfg(ALIASES.get(name, name)).fixed_input_size:
        options["img_size"] = image_size
    return make(name, num_classes, in_channels, **options)


def resolve(arch: str) -> tuple[Callable[..., nn.Module], str]:
    """The function of MODELS for a name, and timm's name inside it, if any; UserError lists the choices.

    Names that timm has given up (xception for legacy_xception) are none: it does not say what size they take.
    """
    for form, make in MODELS.items():
        match = re.fullmatch(form.replace("<timm>", "(.+)"), arch)
        name = "".join(match.groups()) if match else ""
        if match and (not match.groups() or timm.get_pretrained_cfg(ALIASES.get(name, name))):
            return make, name
    core = re.sub(r"^(class|bag|pooled|duo)_|(_large)?_dropout$|_arcface$|_cam$", "", arch)
    near = get_close_matches(core, timm.list_models(), n=3)
    also = f"; near it: {some(near)}" if near else ""
    raise UserError(f"--arch {arch} is neither of {', '.join(MODELS)} with a timm network as <timm>{also}")


__all__ = [
    "ARCHITECTURES", "DETECTORS", "MODELS", "SEGMENTERS", "BagOfCells", "Classifier", "DuoBranch", "MaskPooled",
    "PuzzleCAM", "build", "build_detector", "finds_masks", "task_of", "wrapper_of",
]  # fmt: skip
