"""Where a model looks: class activation maps, weighted by gradients so that any head may follow the feature map.

Method: Selvaraju et al. 2017, "Grad-CAM" (the weights are the mean gradients of the class's logit).
"""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import nn

from cells.crops import resize, to_uint8
from common.errors import UserError
from engine.checkpoints import load_model, read
from losses import build_loss
from models import BagOfCells, DuoBranch, build, task_of, wrapper_of

# Pixels a side that the network is shown at least: at its usual stride of 32 a map of 6 x 6. Covering the hottest
# quarter of smaller maps (3 x 3) lowered the class's logit hardly more than covering a random one; of these, far more.
LEAST_SIZE = 192
PLURALS = {"cell": "cells", "image": "whole images", "nucleus": "nuclei"}
SIZES = ("num_classes", "in_channels", "crop_size")


class CellModel:
    """A checkpoint of train.py of single cells, on the CPU, ready to say where it sees a class."""

    what = "cell"

    def __init__(self, path: str | Path, flag: str, competition: ModuleType):
        checkpoint = read(path, flag)
        self.settings = checkpoint["settings"]
        arch, kind = self.settings["arch"], wrapper_of(self.settings["arch"])
        if task_of(arch) != "classify":
            raise UserError(f"{flag} {path} is a {arch}, which finds cells; a classifier of {self.what}s is right")
        if not self._takes(kind):
            seen = "whole images with their cells" if kind is DuoBranch else PLURALS[self.settings["cell"]]
            raise UserError(f"{flag} {path} was trained on {seen}; {self.what} models are right")
        self._check_sizes(path, flag, competition)
        net = build(arch, *(self.settings[name] for name in SIZES))
        options = {"pool": self.settings["pool"]} if issubclass(kind, BagOfCells) else {}
        criterion = build_loss(self.settings["loss"], np.ones(self.settings["num_classes"]))
        self.model = kind(net, criterion, competition.MEAN, competition.STD, **options)
        load_model(self.model, checkpoint, path, flag)
        self.model.eval()

    def _takes(self, kind: type) -> bool:
        """Whether a model of this kind sees single cells: a duo-branch network does, beside whole images."""
        return kind is DuoBranch or self.settings["cell"] == "cell"

    def _check_sizes(self, path: str | Path, flag: str, competition: ModuleType) -> None:
        for name, right in (("num_classes", len(competition.CLASSES)), ("in_channels", len(competition.CHANNELS))):
            if self.settings[name] != right:
                raise UserError(f"{flag} {path} was trained with --{name} {self.settings[name]}; {right} is right here")

    def maps(self, crops: Sequence[np.ndarray], index: int) -> np.ndarray:
        """The map of class `index` for each crop (side, side, C): (N, h, w) in 0..1, 1 where it counts most."""
        size = self.settings["crop_size"]
        if not hasattr(getattr(self.model.net, "backbone", self.model.net), "patch_embed"):  # they take one size only
            size = max(size, LEAST_SIZE)
        return grad_cam(self.model.net, self.model.normalised(self._batch(crops, size)), index).numpy()

    def _batch(self, crops: Sequence[np.ndarray], size: int) -> torch.Tensor:
        images = [resize(to_uint8(crop), size) for crop in crops]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


class ImageModel(CellModel):
    """The same of whole images."""

    what = "image"

    def _takes(self, kind: type) -> bool:
        return kind is not DuoBranch and self.settings["cell"] == "image"

    @torch.inference_mode()
    def probabilities(self, image: np.ndarray) -> np.ndarray:
        """What the model says of an image (side, side, C): (classes,)."""
        return self.model(self._batch([image], self.settings["crop_size"]))["probs"][0].numpy()


def grad_cam(net: nn.Module, images: torch.Tensor, index: int) -> torch.Tensor:
    """The class activation maps of normalised images (N, C, H, W) for class `index`: (N, h, w), highest value 1.

    net: of `models`, with a feature map of rows and columns. A map is zero where nothing speaks for the class.
    """
    own = hasattr(net, "features") and hasattr(net, "backbone")
    features, head = (net.features, net.head) if own else (net.forward_features, net.forward_head)
    with torch.no_grad():
        maps = features(images)
    if maps.ndim != 4 or 1 in maps.shape[2:]:
        raise UserError("this network has no feature map of rows and columns to draw; convolutional networks have one")
    maps.requires_grad_()
    slopes = torch.autograd.grad(head(maps)[:, index].sum(), maps)[0]
    channel = 3 if not own and getattr(net, "output_fmt", "NCHW") == "NHWC" else 1
    weights = slopes.mean(dim=[axis for axis in (1, 2, 3) if axis != channel], keepdim=True)
    heat = (weights * maps.detach()).sum(dim=channel).clamp(min=0)
    return heat / heat.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12)
