"""The networks of the finder `hpacellseg`: the HPA Cell Segmentator's two weight files, without its package.

Both see a quarter of the image's size; `cells.segmentator_labels` makes cells of what they say. Images of any size,
square or not, 8 or 16 bits.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import nn

from cells.segmentator_labels import Prediction
from common.errors import UserError
from common.foreign import read_state
from models.dpn_unet import STRIDE, dpn_unet, reflect

SCALE = 0.25  # of the networks' input
MARGIN = 32  # pixels mirrored around it, as in the package's padding=True
MEAN, STD = (124 / 255, 117 / 255, 104 / 255), 1 / (0.0167 * 255)
INPUT = (0, 3, 2)  # channels of RGBY: microtubules, ER, nuclei; the nuclei's network sees the nuclei three times
SOURCE = "https://zenodo.org/record/4665863"
FILES = {"--nuc_model": "dpn_unet_nuclei_v1.pth", "--cell_model": "dpn_unet_cell_3ch_v1.pth"}


class Segmentator:
    """The two networks on a device.

    nuc_model, cell_model: weight files (state dicts or the published pickles); batch_size: images of one size that go
    through together, fewer where the memory does not suffice; mixed_precision: float16 where the device is a GPU.
    """

    def __init__(
        self,
        nuc_model: str | Path | None,
        cell_model: str | Path | None,
        device: str | torch.device = "cpu",
        batch_size: int = 4,
        mixed_precision: bool = True,
    ):
        self.device, self.batch_size = torch.device(device), batch_size
        self.half = mixed_precision and self.device.type == "cuda"
        self.nuclei_net = self._load(nuc_model, "--nuc_model")
        self.cell_net = self._load(cell_model, "--cell_model")

    def _load(self, path: str | Path | None, flag: str) -> nn.Module:
        if not path or not Path(path).exists():
            lacks = f"{path} is not there" if path else "it is not given"
            raise UserError(f"the finder hpacellseg needs {flag}, but {lacks}; download {FILES[flag]} from {SOURCE}")
        net = dpn_unet(read_state(path, flag), f"{flag} {path}").to(self.device)
        return net.to(memory_format=torch.channels_last) if self.device.type == "cuda" else net

    @torch.inference_mode()
    def predict(self, images: Sequence[np.ndarray]) -> list[Prediction]:
        """The networks' probabilities for images (H, W, 4) RGBY, uint8 or uint16; those of one size go in batches."""
        found: dict[int, Prediction] = {}
        by_shape: dict[tuple, list[int]] = {}
        for index, image in enumerate(images):
            by_shape.setdefault(image.shape, []).append(index)
        for indices in by_shape.values():
            for first in range(0, len(indices), self.batch_size):
                batch = indices[first : first + self.batch_size]
                found.update(zip(batch, self._predict([images[index] for index in batch]), strict=True))
        return [found[index] for index in range(len(images))]

    def _predict(self, images: list[np.ndarray]) -> list[Prediction]:
        """The predictions of images of one size: together, or by halves where the GPU's memory does not suffice."""
        try:
            inputs = torch.stack([shrink(image[..., INPUT], self.device) for image in images])
            nuclei = self._probabilities(self.nuclei_net, inputs[:, [2, 2, 2]])
            return list(map(Prediction, nuclei, self._probabilities(self.cell_net, inputs)))
        except torch.cuda.OutOfMemoryError:
            if len(images) == 1:
                raise
        half = len(images) // 2
        return self._predict(images[:half]) + self._predict(images[half:])

    def _probabilities(self, net: nn.Module, planes: torch.Tensor) -> np.ndarray:
        """(N, 3, h, w) of values 0..1 to uint8 (N, h, w, 2): border, interior."""
        height, width = planes.shape[2:]
        padded = (planes - planes.new_tensor(MEAN)[:, None, None]) / STD
        for axis in (2, 3):
            padded = reflect(padded, axis, MARGIN, STRIDE - padded.shape[axis] % STRIDE)
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            logits = net(padded)
        if self.half and not logits.isfinite().all():  # beyond what float16 can hold
            logits = net(padded)
        cut = logits[..., MARGIN : MARGIN + height, MARGIN : MARGIN + width].float()
        return (255 * cut.softmax(dim=1)[:, 1:3]).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def shrink(image: np.ndarray, device: torch.device) -> torch.Tensor:
    """An image (H, W, C), uint8 or uint16, at a quarter of its size with values 0..1: float32 (C, h, w) on `device`.

    The same as scikit-image's `rescale(image, 0.25)` with its Gaussian against aliasing, as two matrix products.
    """
    planes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(image, 2, 0), dtype=np.float32)).to(device)
    rows, columns = (torch.from_numpy(shrinking(size)).to(device) for size in image.shape[:2])
    return rows @ (planes / np.iinfo(image.dtype).max) @ columns.T


@lru_cache(maxsize=16)
def shrinking(size: int) -> np.ndarray:
    """The float32 matrix (small, size) that blurs a line of `size` pixels and samples it at a quarter of its length."""
    small = max(1, round(size * SCALE))
    factor = size / small
    sigma = max(0, (factor - 1) / 2)
    radius = int(4 * sigma + 0.5)
    steps = np.arange(-radius, radius + 1)
    bell = np.exp(-0.5 * (steps / sigma) ** 2) if sigma else np.ones(1)
    places = np.clip((np.arange(small) + 0.5) * factor - 0.5, 0, size - 1)
    before = np.minimum(places.astype(int), max(size - 2, 0))
    matrix = np.zeros((small, size))
    for offset, share in ((0, 1 - (places - before)), (1, places - before)):
        sources = _mirrored(before[:, None] + offset + steps, size)
        np.add.at(matrix, (np.arange(small)[:, None], sources), share[:, None] * bell / bell.sum())
    return matrix.astype(np.float32)


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    """Indices beyond 0..size-1 reflected at the first and last pixel, which are not repeated."""
    period = max(2 * size - 2, 1)
    index = index % period
    return np.minimum(index, period - index) if size > 1 else np.zeros_like(index)
