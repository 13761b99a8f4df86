"""Soft labels, label masks, and losses with a memory, through train.py."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_data import make_small_data, train_flags

import train
from cells.table import write_table
from common.errors import UserError
from competitions.hpa import CLASSES
from engine import checkpoints
from engine.data import Samples
from engine.samples import CropReader, ImageReader
from engine.targets import mask_labels, read_mask, soften
from models import build


def samples(keys: list[str], reader=CropReader) -> Samples:
    return Samples(reader([Path()]), keys, np.ones((len(keys), 19), np.float32), None, 8, 8)


def mask_table(path: Path, **rows: list[int]) -> str:
    """A --labelmask: for each ID the classes that do not count."""
    table = pd.DataFrame({"ID": list(rows), **dict.fromkeys(CLASSES, 1)})
    for row, unknown in enumerate(rows.values()):
        table.loc[row, [CLASSES[index] for index in unknown]] = 0
    write_table(table, path)
    return str(path)


def test_a_cell_s_own_row_goes_before_its_image_s(tmp_path):
    mask = read_mask(mask_table(tmp_path / "mask.csv", **{"a": [0, 3], "a+2": [5], "else": [1]}), CLASSES)
    some = samples(["a+1", "a+2", "b+1"])
    assert mask_labels(some, mask) == 2
    unknown = [np.flatnonzero(np.isnan(row)).tolist() for row in some.targets]
    assert unknown == [[0, 3], [5], []]
    images = samples(["a", "b+x"], ImageReader)
    assert mask_labels(images, mask) == 1 and np.isnan(images.targets[0]).sum() == 2


def test_bad_masks(tmp_path):
    table = pd.DataFrame({"ID": ["a", "b"], **{name: [1, 2] for name in CLASSES}})
    write_table(table, tmp_path / "two.csv")
    with pytest.raises(UserError, match="two.csv row 3, column 0:Nucleoplasm: 2 must be 1"):
        read_mask(tmp_path / "two.csv", CLASSES)
    write_table(table[["ID", CLASSES[0]]], tmp_path / "few.csv")
    with pytest.raises(UserError, match="few.csv lacks the column 1:Nuclear membrane"):
        read_mask(tmp_path / "few.csv", CLASSES)


def soft_table(path: Path, keys: list[tuple[str, int]]) -> tuple[str, np.ndarray]:
    probs = np.random.default_rng(0).random((len(keys), 19)).astype(np.float32)
    table = pd.DataFrame(keys, columns=["ImageID", "CellID"])
    write_table(pd.concat([table, pd.DataFrame(probs, columns=list(CLASSES))], axis=1), path)
    return str(path), probs


def test_soft_labels_are_joined_by_key(tmp_path):
    path, probs = soft_table(tmp_path / "soft.csv", [("b", 2), ("a", 1), ("b", 1), ("c", 0)])
    cells = samples(["a+1", "b+2"])
    soften(cells, path, CLASSES)
    np.testing.assert_allclose(cells.targets, probs[[1, 0]], rtol=1e-6)
    images = samples(["c"], ImageReader)
    soften(images, path, CLASSES)
    np.testing.assert_allclose(images.targets, probs[[3]], rtol=1e-6)
    with pytest.raises(UserError, match="--soft_labels .*soft.csv has no row for a, 2"):
        soften(samples(["a+1", "a+2"]), path, CLASSES)


def log(data: Path, run: str = "run") -> pd.DataFrame:
    return pd.read_csv(data / "results" / "models" / run / "fold0" / "log.csv")


def last_bias(data: Path, run: str) -> torch.Tensor:
    return checkpoints.read(data / "results" / "models" / run / "fold0" / "001.pth", "")["model"]["net.fc.bias"]


def test_the_flags_reach_training(tmp_path):
    """Class 0 unknown everywhere: its last bias gets no gradient, its score is empty. Soft labels: the loss changes."""
    data = make_small_data(tmp_path, cells=1)
    images = [f"image{number:02d}" for number in range(12)]
    mask = mask_table(tmp_path / "mask.csv", **{image: [0] for image in images})
    soft, _ = soft_table(tmp_path / "soft.csv", [(image, 1) for image in images])
    once = ["--epochs", "1", "--batch_size", "2", "--effective_batch", "2"]
    train.main(train_flags(data, *once, "--labelmask", mask))
    bias = last_bias(data, "run")
    assert pd.isna(log(data)["AP 0:Nucleoplasm"][0]) and log(data)["AP 16:Cytosol"].notna().all()
    train.main([*train_flags(data, *once), "--out_dir", "plain"])
    train.main([*train_flags(data, *once, "--soft_labels", soft), "--out_dir", "soft"])
    torch.manual_seed(1)
    start = build("test_resnet", 19, 4, 32).fc.bias
    assert bias[0] == start[0] != last_bias(data, "plain")[0] and bias[16] != start[16]
    losses = [log(data, run)["train_loss"][0] for run in ("run", "plain", "soft")]
    assert len(set(losses)) == 3 and losses[2] > losses[1]


def test_a_mask_of_other_images(tmp_path):
    data = make_small_data(tmp_path, images=4, cells=1)
    mask = mask_table(tmp_path / "mask.csv", other=[0])
    with pytest.raises(UserError, match=r"names no sample .such as image01\+1.: its IDs are other"):
        train.main(train_flags(data, "--labelmask", mask))
    with pytest.raises(UserError, match="table does not exist: none.csv"):
        train.main(train_flags(data, "--soft_labels", "none.csv"))


def test_a_loss_with_a_memory_goes_on_from_an_interruption(tmp_path, monkeypatch):
    """ROC-star compares with the samples of before: they are saved too, so that the numbers stay the same."""
    flags = ["--loss", "ROCStar", "--batch_size", "2", "--effective_batch", "4"]
    undisturbed = make_small_data(tmp_path / "a", images=8, cells=2)
    train.main(train_flags(undisturbed, *flags))
    data, count = make_small_data(tmp_path / "b", images=8, cells=2), itertools.count()

    def stop(run, loss):
        if next(count) == 9:
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patch:
        patch.setattr("engine.train._is_finite", stop)
        with pytest.raises(KeyboardInterrupt):
            train.main(train_flags(data, *flags, "--save_minutes", "0"))
    train.main(train_flags(data, *flags))
    pd.testing.assert_frame_equal(log(undisturbed), log(data), check_exact=True)
    first, second = (checkpoints.read(folder / "results/models/run/fold0/002.pth", "")["model"]
                     for folder in (undisturbed, data))  # fmt: skip
    assert int(first["criterion.seen"]) == 24
    assert all(torch.equal(first[name].nan_to_num(9), second[name].nan_to_num(9)) for name in first)

    again = ["--resume", str(data / "results/models/run/fold0/002.pth"), "--preload", "self", "--epochs", "1"]
    train.main([*train_flags(data, *again), "--out_dir", "bce"])  # another loss leaves the memory behind
    assert "criterion.seen" not in checkpoints.read(data / "results/models/bce/fold0/001.pth", "")["model"]
