"""Two images made into one, with the labels of both: MixUp (Zhang et al. 2018) and CutMix (Yun et al. 2019)."""

from dataclasses import dataclass

import numpy as np
import torch

from common.errors import UserError


@dataclass(frozen=True)
class Mixing:
    """Mixes a share of the batches; the others pass as they are.

    mixup, cutmix: alpha of the Beta(alpha, alpha) that the images' share in the mixture is drawn from, 0 = not at all;
    with both, each mixes half of the batches that are mixed. share: of the batches.
    """

    mixup: float = 0.0
    cutmix: float = 0.0
    share: float = 0.5

    def __post_init__(self):
        for flag, alpha in (("--mixup", self.mixup), ("--cutmix", self.cutmix)):
            if alpha < 0:
                raise UserError(f"{flag} {alpha} must be 0 (none) or more")
        if not 0 <= self.share <= 1:
            raise UserError(f"--mix_share {self.share} must be from 0 to 1")

    def __call__(
        self, images: torch.Tensor, targets: torch.Tensor, generator: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """images (N, C, H, W), targets (N, K) in 0..1, NaN = unknown -> the same shapes, mixed or as they were.

        What is unknown of one of two images is unknown of their mixture.
        """
        kinds = [(mix, alpha) for mix, alpha in ((mixup, self.mixup), (cutmix, self.cutmix)) if alpha]
        if not kinds or generator.random() >= self.share:
            return images, targets
        mix, alpha = kinds[generator.integers(len(kinds))]
        order = torch.from_numpy(generator.permutation(len(images))).to(images.device)
        return mix(images, targets, order, float(generator.beta(alpha, alpha)), generator)


def mixup(
    images: torch.Tensor, targets: torch.Tensor, order: torch.Tensor, share: float, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """`share` of each image's pixels and labels and the rest of those of image order[i]; uint8 becomes float."""
    images = images.float()
    return torch.lerp(images[order], images, share), blend(targets, order, share)


def cutmix(
    images: torch.Tensor, targets: torch.Tensor, order: torch.Tensor, share: float, generator: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """A box of each image is that of image order[i]; labels by the pixels that are left.

    The box's sides are sqrt(1 - share) of the image's, about a uniformly drawn centre, cut off at the borders.
    """
    height, width = images.shape[-2:]
    sides = np.array([height, width]) * np.sqrt(1 - share)
    centre = generator.integers((height, width))
    top, left = np.maximum(centre - sides // 2, 0).astype(int)
    bottom, right = np.minimum(centre + sides // 2, (height, width)).astype(int)
    images = images.clone()
    images[..., top:bottom, left:right] = images[order][..., top:bottom, left:right]
    return images, blend(targets, order, 1 - float(bottom - top) * float(right - left) / (height * width))


def blend(targets: torch.Tensor, order: torch.Tensor, share: float) -> torch.Tensor:
    return share * targets + (1 - share) * targets[order]
