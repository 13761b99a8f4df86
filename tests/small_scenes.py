"""Made-up scenes small enough for tests of finders: round cells of three kinds, in the cytologia form."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cells.table import write_table
from common.seeds import rng

KINDS = {"Red": (200, 60, 60), "White": (150, 90, 220), "Blue": (40, 40, 200)}
CLASSES = ",".join(KINDS)


def make_small_scenes(folder: Path, images: int = 8, size: int = 96) -> Path:
    """Write images/<n>.png and train.csv (NAME,x1,y1,x2,y2,class) below `folder`, two to four cells an image."""
    rows = []
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        generator = rng(3, number)
        image = np.full((size, size, 3), 235, np.uint8)
        for place in generator.permutation(4)[: 2 + number % 3]:
            kind = list(KINDS)[generator.integers(3)]
            radius = int(generator.integers(8, 14))
            x, y = (int(24 + 48 * side + generator.integers(-6, 7)) for side in divmod(int(place), 2))
            cv2.circle(image, (x, y), radius, KINDS[kind], -1)
            rows.append((f"{number}.png", x - radius, y - radius, x + radius + 1, y + radius + 1, kind))
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image[..., ::-1])
    write_table(pd.DataFrame(rows, columns=["NAME", "x1", "y1", "x2", "y2", "class"]), folder / "train.csv")
    return folder
