"""Detector, then classifier, with untrained networks: images without any find, and input that does not fit together."""

from pathlib import Path

import pandas as pd
import pytest
import torch
from small_scenes import CLASSES, make_small_scenes

import convertpredictions
import ensemble
import makefolds
import segment
import test as predict
import train
from cells.table import write_table
from common.errors import UserError
from engine import checkpoints
from losses import build_loss
from models import Classifier, build, build_detector

OWN = ["--competition", "cytologia", "--classes", CLASSES]
MEAN, STD = (0.5,) * 3, (0.25,) * 3


@pytest.fixture
def data(tmp_path) -> Path:
    """Small scenes with both networks and test.csv, which wants two cells an image, of one more than there are."""
    folder = make_small_scenes(tmp_path / "data", images=4)
    torch.manual_seed(0)
    common = {
        "competition": "cytologia", "in_channels": 3, "img_size": 64, "crop_size": 64, "cell": "cell",
        "split_name": "x2",
    }  # fmt: skip
    settings = {"arch": "centernet_resnet18", "num_classes": 1, **common}
    weights = build_detector(settings["arch"], 1, 3, MEAN, STD).state_dict()
    checkpoints.save({"model": weights, "settings": settings, "epoch": 1}, folder / "detector.pth")
    loss = build_loss("CrossEntropy", [1.0] * 3)
    weights = Classifier(build("test_resnet", 3, 3, 64), loss, MEAN, STD).state_dict()
    settings = {"arch": "test_resnet", "num_classes": 3, "loss": "CrossEntropy", **common}
    path = checkpoints.run_folder(folder, "Classes", 0) / "best.pth"
    checkpoints.save({"model": weights, "settings": settings, "epoch": 1}, path)
    names = [f"{number}.png" for number in (0, 1, 2, 3, "gone") for _ in range(2)]
    write_table(pd.DataFrame({"trustii_id": range(10), "NAME": names}), folder / "test.csv")
    return folder


def find(data: Path, *more: str, own: list[str] = OWN) -> int | None:
    folders = [word for name in ("meta", "crop", "img", "cache") for word in (f"--{name}_dir", str(data / name))]
    return segment.main(
        [*own, *folders, "--metadata", str(data / "test.csv"), "--root_dir", str(data / "images"), "--weights",
         str(data / "detector.pth"), "--score_threshold", "0", "--max_cells", "2", "--workers", "0", *more]
    )  # fmt: skip


def classify(data: Path, own: list[str] = OWN) -> None:
    predict.main(
        [*own, "--base_dir", str(data), "--out_dir", "Classes", "--img_dir", str(data / "crop"), "--gpu_id", "cpu"]
    )  # fmt: skip
    convertpredictions.main(
        [*own, "--dataset", "test", "--model", "Classes", "--epoch", "best", "--cellorimage", "cell", "--seeds", "0",
         "--augment", "default", "--predictions_path", str(data / "submissions"), "--meta_csv_path",
         str(data / "test.csv"), "--cell_meta_csv_path", str(data / "meta" / "test_cell.csv"), "--out_path", str(data)]
    )  # fmt: skip


def submit(data: Path) -> pd.DataFrame:
    (data / "one.csv").write_text(f"Predictions,Type,{CLASSES}\nprobabilities_Classes_best.csv,cell,1,1,1\n")
    ensemble.main(
        [str(data / "one.csv"), *OWN, "--submission", "1", "--meta_csv", str(data / "test.csv"), "--cell_meta_csv_path",
         str(data / "meta" / "test_cell.csv"), "--out_path", str(data)]
    )  # fmt: skip
    return pd.read_csv(data / "submission_one.csv")


def test_images_without_finds_and_images_that_are_not_there(data, capsys):
    """Nothing is found in 2.png, gone.png does not exist: it is named, and both get what test.csv wants of them."""
    assert find(data) == 1
    errors = capsys.readouterr().err
    assert "skipped gone.png" in errors and "1 of 5 images were skipped" in errors
    table = data / "meta" / "test_cell.csv"
    cells = pd.read_csv(table)
    write_table(cells[cells["ImageID"] != "2.png"], table)
    (data / "crop" / "test" / "2.png.zip").unlink()
    classify(data)
    rows = submit(data)
    assert rows["NAME"].tolist() == pd.read_csv(data / "test.csv")["NAME"].tolist()
    padded = rows[rows["NAME"].isin(["2.png", "gone.png"])]
    usual = cells[["ImageWidth", "ImageHeight"]].mode().iloc[0].tolist()
    assert (padded[["x1", "y1", "x2", "y2"]] == [0, 0, *usual]).all(axis=None) and set(padded["class"]) == {"Red"}
    assert not (rows[rows["NAME"] == "0.png"][["x2", "y2"]] == usual).any(axis=None)


def test_no_find_in_any_image(data, capsys):
    assert find(data, "--score_threshold", "1.0") == 1
    assert "0 cells in 4 images" in capsys.readouterr().out
    with pytest.raises(UserError, match="has no cell of the 4 test images"):
        classify(data)


def test_networks_of_other_classes(data):
    find(data)
    with pytest.raises(UserError, match="best.pth knows 3 classes, cytologia has 2; --classes names"):
        classify(data, ["--competition", "cytologia", "--classes", "Red,White"])
    with pytest.raises(UserError, match=r"best.pth is a test_resnet, which finds no cells"):
        find(data, "--weights", str(checkpoints.run_folder(data, "Classes", 0) / "best.pth"))


def test_an_image_with_cells_in_two_folds(data):
    folders = [word for name in ("meta", "crop", "img", "cache") for word in (f"--{name}_dir", str(data / name))]
    table, images = str(data / "train.csv"), str(data / "images")
    segment.main([*OWN, *folders, "--finder", "truth", "--metadata", table, "--root_dir", images, "--workers", "0"])
    split = ["--folds_dir", str(data), "--split_name", "x2"]
    makefolds.main([*OWN, "--metadata", table, "--cell_metadata", str(data / "meta" / "train_cell.csv"), *split])
    cells = pd.read_csv(data / "x2" / "cells.csv", dtype=str)
    cells.loc[0, "Fold"] = str(1 - int(cells["Fold"][0]))
    write_table(cells, data / "x2" / "cells.csv")
    flags = [*OWN, *split, "--out_dir", "Run", "--result_dir", str(data), "--arch", "test_resnet", "--cell", "cell"]
    with pytest.raises(UserError, match=rf"cells.csv leaks: ImageID {cells['ImageID'][0]} is in the folds 0, 1"):
        train.main([*flags, "--img_path", str(data / "crop"), "--gpu_id", "cpu", "--loss", "CrossEntropy"])
    assert not (data / "models" / "Run" / "fold0" / "last.pth").exists()
