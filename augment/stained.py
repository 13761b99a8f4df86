"""Changes to crops of stained cells in training: position, size and colour, since stains and cameras differ."""

import numpy as np

from augment.colours import blur, brightness_contrast, hue_saturation
from augment.crops import dihedral_crop
from augment.scenes import about_middle, sometimes, warped


def stained_crop(image: np.ndarray, crop_size: int, generator: np.random.Generator) -> np.ndarray:
    """A dihedral crop (see there), turned by up to 45 degrees, scaled by 1 +- .2, shifted by up to .08 of its side, in
    another brightness and hue and sometimes blurred. What lies outside is zero, as in crops at an image's border.
    """
    image = dihedral_crop(image, crop_size, generator)
    shape = image.shape[:2]
    turn, scale, shift = generator.uniform(-45, 45), generator.uniform(0.8, 1.2), generator.uniform(-0.08, 0.08, 2)
    image = warped(image, about_middle(shape, shape, turn, scale, shift, np.zeros(2)), shape, fill=0)
    image = sometimes(image, generator, 0.7, brightness_contrast)
    image = sometimes(image, generator, 0.5, hue_saturation)
    return sometimes(image, generator, 0.2, blur)
