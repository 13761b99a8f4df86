"""Changes to images: random ones in training (`TRAIN`), fixed ones at test time (`augment.views`)."""

from collections.abc import Callable

import numpy as np

from augment.crops import dihedral_crop, whole
from augment.stained import stained_crop

# name -> function(image HxWxC, crop_size, generator) -> image crop_size x crop_size x C
TRAIN: dict[str, Callable[[np.ndarray, int, np.random.Generator], np.ndarray]] = {
    "dihedral_crop": dihedral_crop,
    "stained_crop": stained_crop,
    "none": whole,
}
