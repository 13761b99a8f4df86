"""The whole tables of the Cytologia challenge, with made-up finds and opinions, through the scripts of the road."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import ensemble
import evaluate
import makefolds
from cells.table import KEY, write_table
from competitions import cytologia
from competitions.cytologia import CLASSES

OWN = ["--competition", "cytologia"]


@pytest.fixture(scope="module")
def tables(real_data, tmp_path_factory) -> Path:
    """The challenge's tables, with the marked cells, and two finds an image of test.csv, as cells tables."""
    folder = tmp_path_factory.mktemp("tables")
    for name in ("train.csv", "test.csv"):
        (folder / name).symlink_to(real_data / "cytologia" / name)
    write_table(cytologia.read_cells(folder / "train.csv").assign(keep=1), folder / "train_cell.csv")
    images = np.repeat(cytologia.read_metadata(folder / "test.csv")["ID"].to_numpy(), 2)
    draw = np.random.default_rng(0)
    low = draw.uniform(0, 180, (len(images), 2))
    boxes = np.hstack([low, low + draw.uniform(60, 180, low.shape)]).round(2)
    cells = pd.DataFrame({"ImageID": images, "CellID": np.tile([1, 2], len(images) // 2)})
    cells = cells.assign(ImageWidth=370, ImageHeight=368, PredictionString="", score=draw.random(len(cells)).round(4))
    cells[["x1", "y1", "x2", "y2"]] = boxes
    write_table(cells.assign(Image=cells["ImageID"] + "+" + cells["CellID"].astype(str)), folder / "test_cell.csv")
    return folder


def write_opinions(folder: Path, keys: pd.DataFrame, right: np.ndarray | None) -> Path:
    """Two models of cells in a group each and one of images, and the ensemble CSV that names them; where it is known,
    four in five cells are named rightly.
    """
    draw = np.random.default_rng(1)
    images = keys[["ImageID"]].drop_duplicates().assign(CellID=0)
    rows = []
    for name, kind, own in (("one", "cell", keys), ("two", "cell", keys), ("whole", "image", images)):
        logits = draw.normal(0, 1, (len(own), len(CLASSES)))
        if right is not None and kind == "cell":
            seen = np.where(np.random.default_rng(2).random(len(own)) < 0.8, right, draw.integers(23, size=len(own)))
            logits[np.arange(len(own)), seen] += 9
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        table = pd.DataFrame(probs.astype(np.float32), columns=list(CLASSES))
        write_table(pd.concat([own[KEY].reset_index(drop=True), table], axis=1), folder / f"{name}.csv")
        rows.append({"Predictions": f"{name}.csv", "Type": kind, "Group": name, **dict.fromkeys(CLASSES, 1)})
    write_table(pd.DataFrame(rows), folder / "config.csv")
    return folder / "config.csv"


@pytest.mark.slow
def test_folds(tables, capsys):
    flags = ["--metadata", str(tables / "train.csv"), "--cell_metadata", str(tables / "train_cell.csv")]
    makefolds.main([*OWN, *flags, "--folds_dir", str(tables), "--split_name", "cytologia_folds4"])
    images, cells = (pd.read_csv(tables / "cytologia_folds4" / f"{name}.csv") for name in ("images", "cells"))
    assert len(images) == 48417 and len(cells) == 52748 and not images["ID"].duplicated().any()
    assert images["Fold"].value_counts().between(12000, 12200).all()
    counts = pd.crosstab(cells["Label"], cells["Fold"])
    assert counts.shape == (23, 4) and (counts.sub(counts.mean(axis=1), axis=0).abs().max(axis=1) <= 60).all()


@pytest.mark.slow
def test_the_ensemble_s_submission_and_its_score(tables, tmp_path, capsys):
    cells = pd.read_csv(tables / "test_cell.csv")
    config = write_opinions(tmp_path, cells, None)
    flags = ["--meta_csv", str(tables / "test.csv"), "--cell_meta_csv_path", str(tables / "test_cell.csv")]
    ensemble.main([str(config), *OWN, "--submission", "1", *flags, "--out_path", str(tmp_path)])
    submission = tmp_path / "submission_config.csv"
    written, asked = pd.read_csv(submission), pd.read_csv(tables / "test.csv")
    assert written[["trustii_id", "NAME"]].equals(asked) and written["class"].isin(CLASSES).all()
    truth = written.drop(columns="trustii_id")
    write_table(truth, tmp_path / "truth.csv")
    evaluate.main([*OWN, "--submission", str(submission), "--truth", str(tmp_path / "truth.csv")])
    assert "macro-F1: 1.0000" in capsys.readouterr().out


@pytest.mark.slow
def test_the_score_of_every_training_cell(tables, tmp_path, capsys):
    cells = pd.read_csv(tables / "train_cell.csv")
    config = write_opinions(tmp_path, cells, cells["Label"].to_numpy())
    flags = ["--meta_csv", str(tables / "train.csv"), "--cell_meta_csv_path", str(tables / "train_cell.csv")]
    out = ["--dataset", "valid", "--truth", str(tables / "train.csv"), "--out_path", str(tmp_path)]
    ensemble.main([str(config), *OWN, *flags, *out])
    score = float(capsys.readouterr().out.splitlines()[-1].split()[-1])
    assert 0.2 < score < 0.2 + 0.8 * 0.85  # all boxes are right, four in five classes
