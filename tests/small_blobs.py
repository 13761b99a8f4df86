"""Made-up images of blobs small enough for tests of segmentation networks, in the form of the neurons competition."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from cells import rle
from cells.table import write_table
from common.seeds import rng

CLASSES = "cell"


def make_small_blobs(folder: Path, images: int = 6, shape: tuple[int, int] = (64, 96)) -> Path:
    """Write images/<n>.png and train.csv (id,annotation,width,height,cell_type) below `folder`, three cells each."""
    rows = []
    (folder / "images").mkdir(parents=True)
    for number in range(images):
        generator = rng(5, number)
        image = np.full(shape, 40, np.uint8)
        for place in range(3):
            mask = np.zeros(shape, np.uint8)
            centre = int(16 + 32 * place), int(generator.integers(16, shape[0] - 16))
            cv2.ellipse(mask, centre, (int(generator.integers(6, 12)), 8), 0, 0, 360, 1, -1)
            image[mask > 0] = 190
            rows.append((f"{number}", rle.encode(mask), shape[1], shape[0], "cell"))
        cv2.imwrite(str(folder / "images" / f"{number}.png"), image)
    table = pd.DataFrame(rows, columns=["id", "annotation", "width", "height", "cell_type"])
    write_table(table, folder / "train.csv")
    return folder
