"""A data set as segment.py leaves it, small enough for tests of training and prediction: bright or dark cells."""

from pathlib import Path

import numpy as np
import pandas as pd

from cells.store import write_image_png, write_shard
from cells.table import write_table
from common.seeds import rng

ARCH = ["--arch", "test_resnet", "--img_size", "40", "--crop_size", "32"]


def make_small_data(folder: Path, images: int = 12, cells: int = 3) -> Path:
    """Write CROPS, IMGS and cv_folds below `folder`: class 0 is bright green, class 16 dark, class 18 nothing."""
    rows = []
    for number in range(images):
        name, label = f"image{number:02d}", (0, 16, 18)[number % 3]
        level = {0: 200, 16: 60, 18: 5}[label]
        crops = {cell: picture(level, number, cell) for cell in range(1, cells + 1)}
        write_shard(folder / "crops" / "train" / f"{name}.zip", crops)
        write_shard(folder / "crops" / "test" / f"test_{name}.zip", crops)
        write_image_png(folder / "images" / "train" / f"{name}.png", picture(level, number, 0))
        rows.append({"ID": name, "Label": str(label), "Fold": number % 4})
    write_table(pd.DataFrame(rows), folder / "cv_folds" / "random_folds4" / "images.csv")
    return folder


def picture(level: int, *keys: int) -> np.ndarray:
    """A noisy 48 x 48 RGBY picture whose green channel lies at `level`."""
    image = rng(7, *keys).integers(0, 30, (48, 48, 4), dtype=np.uint8)
    image[..., 1] += np.uint8(level)
    return image


def train_flags(folder: Path, *more: str) -> list[str]:
    """train.py's flags for a cell model on the small data."""
    return [
        "--out_dir", "run", "--result_dir", str(folder / "results"), "--img_path", str(folder / "crops"),
        "--cell", "cell", "--folds_dir", str(folder / "cv_folds"), "--split_name", "random_folds4", "--fold", "0",
        *ARCH, "--loss", "BCE", "--scheduler", "AdamShortRun", "--lr", "0.003", "--epochs", "2", "--batch_size", "4",
        "--effective_batch", "8", "--gpu_id", "cpu", *more,
    ]  # fmt: skip


def predict_flags(folder: Path, *more: str) -> list[str]:
    """test.py's flags for the same run."""
    return [
        "--base_dir", str(folder / "results"), "--out_dir", "run", "--predict_epoch", "2", "--fold", "0",
        "--img_dir", str(folder / "crops"), "--folds_dir", str(folder / "cv_folds"), "--gpu_id", "cpu", *more,
    ]  # fmt: skip
