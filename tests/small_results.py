"""Results folders as recipes leave them, small enough for tests of the report: masks of hpa, boxes of own classes."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
from small_scenes import CLASSES, make_small_scenes

import competitions
from cells.crops import boxes, cut_box, cut_cell
from cells.masks import encode_label_image
from cells.store import write_shard
from cells.table import BOX, KEY, write_table
from common.seeds import rng
from competitions import hpa

IDS = ("<script>alert(1)", "a&b", 'c"d')
SIDE = 64


def make_hpa_results(out: Path) -> Path:
    """Three images of two cells each: found, predicted by two models, combined, scored, with two runs."""
    rows = [row for image_id in IDS for row in make_image(out, image_id)]
    cells = pd.DataFrame(rows)
    write_table(cells, out / "meta" / "sample_submission_cell.csv")
    write_table(cells.assign(Label=["0", "16", "0|16", "5", "18", "16"]), out / "truth.csv")
    for number, name in enumerate(("Cell_6", "Image_25")):
        write_table(opinions(cells, number), out / "tables" / f"probabilities_{name}.csv")
    rows = [(f"probabilities_{name}.csv", "cell", *[weight] * 19) for name, weight in (("Cell_6", 3), ("Image_25", 1))]
    write_table(pd.DataFrame(rows, columns=["Predictions", "Type", *hpa.CLASSES]), out / "mix.csv")
    write_table(opinions(cells, 2), out / "ensemble_mix.csv")
    (out / "submission.csv").write_text("ID,ImageWidth,ImageHeight,PredictionString\n")
    for number, name in enumerate(("score_submission", "steps/score_submission_image", "steps/mean/score_x")):
        write_table(score(hpa.CLASSES, number), out / f"{name}.csv")
    make_run(out / "results/models/Cell/fold0", "pr_auc", epochs=4)
    make_run(out / "results/models/Image/fold0", "pr_auc", epochs=1)
    make_run(out / "results/models/Image/fold1", "pr_auc", epochs=1)
    folds = pd.DataFrame({"ID": ["x", "y", "z"], "Label": "0", "Fold": [0, 1, 2]})
    write_table(folds, out / "cv_folds" / "folds3" / "images.csv")
    return out


def make_image(out: Path, image_id: str) -> list[dict]:
    """The rows of an image's two cells, a square and a triangle; writes their crops."""
    generator = rng(3, image_id)
    labels = np.zeros((SIDE, SIDE), np.int32)
    labels[4:30, 6:28] = 1
    labels[34:60, 30:60] = 2 * np.tri(26, 30, dtype=np.int32)
    image = generator.integers(40, 255, (SIDE, SIDE, 4), dtype=np.uint8)
    places, texts = boxes(labels), encode_label_image(labels)
    crops = {cell: cut_cell(image, labels, cell, places[cell]) for cell in places}
    write_shard(out / "crops" / "test" / f"{image_id}.zip", crops)
    return [
        {"Image": f"{image_id}+{cell}", "ImageID": image_id, "CellID": cell, "ImageWidth": SIDE, "ImageHeight": SIDE,
         "PredictionString": texts[cell], **dict(zip(BOX, places[cell], strict=True))}
        for cell in places
    ]  # fmt: skip


def opinions(cells: pd.DataFrame, number: int) -> pd.DataFrame:
    """A probabilities table of hpa's classes for the cells."""
    probs = rng(5, number).random((len(cells), len(hpa.CLASSES))).round(3)
    return pd.concat([cells[KEY], pd.DataFrame(probs, columns=list(hpa.CLASSES))], axis=1)


def score(classes: tuple[str, ...], number: int) -> pd.DataFrame:
    """A score table; one class has no truth."""
    values = rng(7, number).random(len(classes) + 1)
    values[2] = np.nan
    return pd.DataFrame({"Class": [*classes, "mean"], "AP": values, "Truths": np.arange(len(values)) * 1000})


def make_run(folder: Path, score: str, epochs: int, **settings: object) -> None:
    """A training run's log and settings, and its checkpoints' names."""
    folder.mkdir(parents=True)
    generator = rng(9, epochs)
    log = {"epoch": np.arange(1, epochs + 1), "train_loss": generator.random(epochs), score: generator.random(epochs)}
    write_table(pd.DataFrame(log), folder / "log.csv")
    own = {"competition": "hpa", "classes": None, "arch": "test_resnet", "loss": "BCE", "img_path": "crops", **settings}
    (folder / "settings.json").write_text(json.dumps(own))
    (folder / "best.pth").write_bytes(b"weights of " + folder.name.encode())


def make_box_results(out: Path) -> Path:
    """Boxes of the small scenes' classes: one cell wrong, one that is none, one overlooked; a run of a detector."""
    root = make_small_scenes(out / "data", images=4)
    competition = competitions.get("cytologia", CLASSES)
    truth = competition.read_cells(root / "train.csv", root=root / "images")
    found = truth.assign(score=0.9, Label=truth["Label"].astype(int)).drop(index=3).reset_index(drop=True)
    found.loc[0, "Label"] = (found.loc[0, "Label"] + 1) % 3
    false = found.iloc[[0]].assign(Image="0.png+77", CellID=77, x1=0.0, y1=0.0, x2=6.5, y2=7.0, score=0.7)
    found = pd.concat([found, false], ignore_index=True)
    write_table(found, out / "meta" / "test_cell.csv")
    for image_id, own in found.groupby("ImageID"):
        image = competition.read_image(root / "images", image_id)
        crops = {row.CellID: cut_box(image, (row.x1, row.y1, row.x2, row.y2), 16) for row in own.itertuples()}
        write_shard(out / "crops" / "test" / f"{image_id}.zip", crops)
    make_run(out / "results/models/Detector/fold0", "mAP", 3, competition="cytologia", classes=CLASSES, img_path=None)
    return out
