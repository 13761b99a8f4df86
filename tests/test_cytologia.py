"""Cytologia's files: reading, refusing, counts and padding, the score, cleaning; the real tables where they are."""

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import competitions
import ensemble
import evaluate
from cells.cleaning import noisy_boxes, noisy_images, remove_cells
from cells.table import write_table
from common.errors import UserError
from common.seeds import rng
from competitions import cytologia
from tasks.flags import defaults_of

HEADER = "NAME,x1,y1,x2,y2,class"
ROWS = ["a.jpg,10,20,110,120,PNN", "b.jpg,-5,0,60,50,SS", "a.jpg,200,20,300,110,LY", "b.jpg,100,0,160,50,SS"]


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def truth(tmp_path) -> Path:
    return write(tmp_path / "train.csv", *ROWS)


@pytest.fixture
def counts(tmp_path) -> Path:
    rows = ["7,b.jpg", "3,a.jpg", "9,b.jpg", "1,c.jpg", "2,a.jpg"]
    return write(tmp_path / "test.csv", *rows, header="trustii_id,NAME")


@pytest.fixture
def images(tmp_path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for name, shape in (("a.jpg", (200, 320, 3)), ("b.jpg", (60, 200, 3)), ("c.jpg", (40, 50, 3))):
        cv2.imwrite(str(folder / name), np.full(shape, 128, np.uint8))
    return folder


@pytest.mark.parametrize(("epochs", "mosaics"), [(None, 95), (150, 135), (20, 5), (8, 0)])
def test_the_last_fifteen_epochs_are_without_mosaics(epochs, mosaics):
    args = argparse.Namespace(arch="yolox_s", epochs=epochs, competition="cytologia")
    assert defaults_of(args, competitions.get("cytologia"))["mosaic_epochs"] == mosaics


def test_networks_of_masks_begin_without_mosaics():
    args = argparse.Namespace(arch="maskrcnn_resnet18", epochs=None, competition="cytologia")
    assert defaults_of(args, competitions.get("cytologia"))["mosaic_epochs"] == 0


@pytest.mark.parametrize(("epochs", "first"), [(None, 30), (20, 10), (1, 1)])
def test_weights_are_averaged_over_the_same_share_of_the_epochs(epochs, first):
    args = argparse.Namespace(arch="unet_resnet34", epochs=epochs, competition="pannuke")
    assert defaults_of(args, competitions.get("pannuke"))["swa_start"] == first


def test_the_table_is_read(truth, images) -> None:
    cells = cytologia.read_cells(truth, images)
    assert cells["Image"].tolist() == ["a.jpg+1", "b.jpg+1", "a.jpg+2", "b.jpg+2"]
    assert cells["Label"].tolist() == ["0", "22", "1", "22"]
    assert cells[["x1", "y1", "x2", "y2", "ImageWidth", "ImageHeight"]].to_numpy()[1].tolist() == [
        -5,
        0,
        60,
        50,
        200,
        60,
    ]
    labels = cytologia.read_labels(truth)
    assert labels.to_dict("list") == {"ID": ["a.jpg", "b.jpg"], "Label": ["0|1", "22"]}
    assert cytologia.multi_hot(labels["Label"]).sum(axis=1).tolist() == [2, 1]
    assert cytologia.read_image(images, "c.jpg").shape == (40, 50, 3)


def test_counts_by_image(counts, images) -> None:
    table = cytologia.read_metadata(counts)
    assert table.to_dict("list") == {
        "ID": ["b.jpg", "a.jpg", "c.jpg"], "trustii_id": ["7|9", "3|2", "1"], "Place": ["0|2", "1|4", "3"],
        "Count": [2, 2, 1],
    }  # fmt: skip
    sized = cytologia.read_metadata(counts, images)
    assert sized[["ImageWidth", "ImageHeight"]].to_numpy().tolist() == [[200, 60], [320, 200], [50, 40]]
    (images / "a.jpg").unlink()
    with pytest.raises(UserError, match=r"test.csv names the image a.jpg, which .*images does not have"):
        cytologia.read_metadata(counts, images)
    assert cytologia.read_metadata(images)["ID"].tolist() == ["b.jpg", "c.jpg"]


def test_a_background_image_has_a_row_without_a_class(tmp_path) -> None:
    path = write(tmp_path / "train.csv", *ROWS, "blank.png,0,0,0,0,")
    assert cytologia.read_labels(path)["Label"].tolist() == ["0|1", "22", ""]
    assert cytologia.multi_hot(pd.Series(["", "3"])).sum(axis=1).tolist() == [0, 1]
    assert len(cytologia.read_cells(path)) == 4


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (
            "a.jpg,60,20,40,40,LY",
            "row 2, column x2: 40 is not above x1: a box without area; both are corners, x1 no centre",
        ),
        ("a.jpg,10,20,60,20,LY", "row 2, column y2: 20 is not above y1: a box without area; .* y2 no height"),
        ("a.jpg,-60,20,-5,40,LY", "row 2, column x2: -5 puts the box outside the image"),
        ("a.jpg,320,20,340,40,LY", "row 2, column x1: 320 puts the box outside the image"),
        ("a.jpg,10,200.5,40,240,LY", "row 2, column y1: 200.5 puts the box outside the image"),
        ("a.jpg,10,20,40,40,LYM", "row 2, column class: 'LYM' is no class; known: PNN, LY"),
        ("z.jpg,10,20,40,40,LY", "bad.csv names the image z.jpg, which .* does not have"),
    ],
)
def test_bad_rows_are_named(tmp_path, images, row, why) -> None:
    with pytest.raises(UserError, match=why):
        cytologia.read_cells(write(tmp_path / "bad.csv", row), images)


def found(*rows: tuple) -> pd.DataFrame:
    """A cells table of image, box and score."""
    table = pd.DataFrame(rows, columns=["ImageID", "x1", "y1", "x2", "y2", "score"])
    return table.assign(ImageWidth=320, ImageHeight=200)


def hot(*classes: int, count: int = 23) -> np.ndarray:
    return np.eye(count)[list(classes)] * 0.6 + 0.4 / count


def test_the_submission_has_the_wanted_rows_in_order(tmp_path, counts, images) -> None:
    cells = found(("a.jpg", 1, 1, 9, 9, 0.2), ("b.jpg", 4.4, 5.5, 20.6, 30, 0.3), ("a.jpg", 50, 50, 60, 60, 0.9),
                  ("a.jpg", 70, 70, 80, 80, 0.8))  # fmt: skip
    sample = cytologia.read_metadata(counts, images)
    cytologia.write_submission(tmp_path / "out.csv", sample, cells, hot(3, 4, 5, 6))
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "trustii_id,NAME,x1,y1,x2,y2,class",
        "7,b.jpg,4,6,21,30,BA",
        "3,a.jpg,50,50,60,60,Er",
        "9,b.jpg,0,0,200,60,BA",  # wanted, not found: the whole image, with the class of the image's best box
        "1,c.jpg,0,0,50,40,PNN",  # nothing found: the whole image and the most frequent class
        "2,a.jpg,70,70,80,80,PM",
    ]
    cytologia.write_submission(tmp_path / "none.csv", cytologia.read_metadata(counts), cells.iloc[:0], hot()[:0])
    rows = (tmp_path / "none.csv").read_text().splitlines()
    assert len(rows) == 6 and rows[1] == "7,b.jpg,0,0,370,368,PNN"


def test_background_is_never_the_answer(counts) -> None:
    probs = hot(23, count=24)
    probs[0, 9] += 0.1
    chosen = cytologia.choose_boxes(cytologia.read_metadata(counts), found(("c.jpg", 1, 1, 9, 9, 0.9)), probs)
    assert chosen.iloc[-1][["ImageID", "class"]].tolist() == ["c.jpg", 9]


def test_tiny_boxes_keep_an_area(counts) -> None:
    chosen = cytologia.choose_boxes(cytologia.read_metadata(counts), found(("c.jpg", 1.2, 1.2, 1.4, 1.4, 0.9)), hot(0))
    assert chosen.iloc[-1][["x1", "y1", "x2", "y2"]].tolist() == [1, 1, 2, 2]


def test_what_does_not_fit_is_refused(tmp_path, truth, counts) -> None:
    cells = found(("q.jpg", 1, 1, 9, 9, 0.2))
    with pytest.raises(UserError, match="the table of counts has no row for q.jpg"):
        cytologia.write_submission(tmp_path / "out.csv", cytologia.read_metadata(counts), cells, hot(3))
    with pytest.raises(UserError, match="a submission needs test.csv"):
        cytologia.write_submission(tmp_path / "out.csv", cytologia.read_metadata(truth), cells, hot(3))
    with pytest.raises(UserError, match="lacks the column score"):
        cytologia.choose_boxes(cytologia.read_metadata(counts), cells.drop(columns="score"), hot(3))
    assert not (tmp_path / "out.csv").exists()
    doubled = write(tmp_path / "twice.csv", "7,b.jpg", "7,a.jpg", header="trustii_id,NAME")
    with pytest.raises(UserError, match="the key trustii_id = 7 more than once"):
        cytologia.read_metadata(doubled)
    with pytest.raises(UserError, match="has no rows"):
        cytologia.read_metadata(write(tmp_path / "none.csv", header="trustii_id,NAME"))


def test_scores(tmp_path, truth, capsys) -> None:
    assert cytologia.score(truth, truth)["Score"].iloc[-1] == 1
    cells = cytologia.read_cells(truth)
    probs = hot(*cells["Label"].astype(int))
    assert cytologia.score_cells(cells, probs, ["a.jpg", "b.jpg"], truth)["Score"].iloc[-1] == 1
    assert cytologia.score_cells(cells, probs, ["b.jpg"], truth)["Truths"].iloc[-1] == 2
    # a.jpg has no prediction: GIoU -1 for its two boxes, and neither of its classes is found
    submission = write(tmp_path / "sub.csv", *[row for row in ROWS if row.startswith("b")])
    assert cytologia.score(submission, truth)["Score"].iloc[-1] == pytest.approx(0.2 * 0.5 + 0.8 / 3)
    arguments = ["--competition", "cytologia", "--submission", str(submission), "--truth", str(truth)]
    assert not evaluate.main(arguments)
    assert ".2 x GIoU + .8 x macro-F1: 0.3667" in capsys.readouterr().out


def test_the_road_ends_in_a_submission(tmp_path, capsys) -> None:
    classes = ("cat", "dog")  # a user's own
    truth = write(tmp_path / "train.csv", "a.jpg,10,20,110,120,cat", "b.jpg,5,0,60,50,dog", "a.jpg,200,20,300,110,dog")
    write(tmp_path / "test.csv", "5,a.jpg", "6,b.jpg", "7,a.jpg", header="trustii_id,NAME")
    cells = cytologia.read_cells(truth, classes=classes)
    own = pd.DataFrame(np.eye(2)[cells["Label"].astype(int)], columns=classes)
    write_table(cells.drop(columns="Label"), tmp_path / "cells.csv")
    write_table(pd.concat([cells[["ImageID", "CellID"]], own], axis=1), tmp_path / "probs.csv")
    write_table(pd.DataFrame([{"Predictions": "probs.csv", "Type": "cell", "cat": 1, "dog": 1}]), tmp_path / "one.csv")
    arguments = ["--competition", "cytologia", "--classes", "cat,dog", "--dataset", "test", "--submission", "1",
                 "--meta_csv", tmp_path / "test.csv", "--cell_meta_csv_path", tmp_path / "cells.csv",
                 "--out_path", tmp_path, "--truth", truth]  # fmt: skip
    assert not ensemble.main([str(word) for word in (tmp_path / "one.csv", *arguments)])
    assert "1.0000" in capsys.readouterr().out.splitlines()[-1]
    assert cytologia.score(tmp_path / "submission_one.csv", truth, classes)["Score"].iloc[-1] == 1
    arguments[arguments.index(tmp_path / "test.csv")] = truth
    with pytest.raises(UserError, match="a submission is made from test.csv, and .* is not like it"):
        ensemble.main([str(word) for word in (tmp_path / "one.csv", *arguments)])


def test_more_boxes_than_wanted_do_not_help(truth) -> None:
    cells = cytologia.read_cells(truth)
    wrong = cells.assign(score=2.0, x1=cells["x1"] + 20, x2=cells["x2"] + 20)
    both, probs = pd.concat([cells, wrong], ignore_index=True), np.vstack([hot(*cells["Label"].astype(int))] * 2)
    ours = cytologia.score_cells(both, probs, ["a.jpg", "b.jpg"], truth)
    alone = cytologia.score_cells(wrong, probs[:4], ["a.jpg", "b.jpg"], truth)
    assert ours["Score"].iloc[-1] == alone["Score"].iloc[-1] < 1


@pytest.mark.parametrize(
    ("row", "header", "why"),
    [
        ("a.jpg,1,1,2,2,LYM", HEADER, "row 2, column class: 'LYM' is no class"),
        ("a.jpg,1,1,2,2,", HEADER, "row 2, column class: '' is no class"),
        ("a.jpg,2,1,2,2,LY", HEADER, "row 2, column x2: 2 is not above x1"),
        ("q.jpg,1,1,2,2,LY", HEADER, "names the image q.jpg, which .* does not have"),
        ("5,a.jpg,1,1,2,2,LY\n5,a.jpg,1,1,2,2,LY", f"trustii_id,{HEADER}", "trustii_id = 5 more than once"),
    ],
)
def test_bad_submissions_are_named(tmp_path, truth, row, header, why) -> None:
    with pytest.raises(UserError, match=why):
        cytologia.score(write(tmp_path / "bad.csv", row, header=header), truth)


# ---------------------------------------------------------------- cleaning


def test_noisy_boxes() -> None:
    boxes = [(0, 0, 50, 50), (0, 0, 7, 50), (0, 60, 99, 80), (-40, 0, 30, 50), (1, 0, 51, 50), (60, 0, 99, 50)]
    cells = found(*[("a", *box, 1.0) for box in boxes], ("b", 1, 0, 51, 50, 1.0))
    assert noisy_boxes(cells).tolist() == [False, True, True, True, True, False, False]
    assert not noisy_boxes(cells.assign(ImageWidth=0, ImageHeight=0))[3]
    assert noisy_boxes(cells.iloc[:0]).shape == (0,)


def test_noisy_images() -> None:
    truth = found(("a", 0, 0, 10, 10, 1), ("b", 0, 0, 10, 10, 1), ("b", 50, 0, 60, 10, 1), ("d", 0, 0, 9, 9, 1))
    finds = found(("a", 0, 0, 10, 9, 0.2), ("b", 20, 0, 30, 10, 0.9), ("b", 0, 0, 10, 10, 0.8), ("c", 0, 0, 9, 9, 0.4),
                  ("c", 0, 0, 9, 9, 0.6), ("a", 30, 30, 40, 40, 0.4))  # fmt: skip
    assert noisy_images(truth, finds).to_numpy().tolist() == [
        ["b", 2, 1, 1],
        ["c", 0, 0, 1],
        ["d", 1, 1, 0],
        ["a", 1, 0, 0],
    ]


def test_cells_are_removed_from_an_image() -> None:
    generator = rng(1, "picture")
    image = np.clip(generator.normal(220, 3, (120, 160, 3)), 0, 255).astype(np.uint8)
    image += (np.linspace(0, 20, 160)[:, None]).astype(np.uint8)  # brighter to the right
    blank = image.copy()
    cv2.circle(image, (50, 60), 20, (120, 60, 160), -1)  # found
    cv2.circle(image, (120, 40), 12, (150, 70, 150), -1)  # stained, not found
    cv2.circle(image, (120, 95), 10, (200, 235, 200), -1)  # found, hardly stained
    boxes = np.array([[30, 40, 70, 80], [110, 85, 130, 105]])
    before = image.copy()
    empty = remove_cells(image, boxes, rng(1, "fill"))
    assert (image == before).all() and empty.dtype == np.uint8
    assert (empty == remove_cells(image, boxes, rng(1, "fill"))).all()
    for x, y in ((50, 60), (120, 40), (120, 95)):
        patch, own = (
            empty[y - 8 : y + 8, x - 8 : x + 8].astype(float),
            blank[y - 8 : y + 8, x - 8 : x + 8].astype(float),
        )
        assert abs(patch.mean() - own.mean()) < 4 and 1.5 < patch.std(axis=(0, 1)).mean() < 6
    assert remove_cells(image, np.array([[0, 0, 160, 120]]), rng(1, "fill")) is None
    assert remove_cells(blank, np.zeros((0, 4)), rng(1, "fill")).shape == blank.shape


# ---------------------------------------------------------------- real tables


def test_the_whole_real_tables_go_through(real_data, tmp_path) -> None:
    path = real_data / "cytologia" / "train.csv"
    cells = cytologia.read_cells(path)
    labels = cytologia.read_labels(path)
    assert len(cells) == 52748 and len(labels) == 48417 and cytologia.multi_hot(labels["Label"]).any(axis=0).all()
    assert cytologia.score(path, path)["Score"].iloc[-1] == 1
    counts = cytologia.read_metadata(real_data / "cytologia" / "test.csv")
    assert counts["Count"].sum() == 22689 and len(counts) == 20751
    cells["ImageID"] = cells["ImageID"].map(dict(zip(labels["ID"], counts["ID"], strict=False)))
    cells = cells.dropna(subset="ImageID")
    cytologia.write_submission(tmp_path / "out.csv", counts, cells, hot(*cells["Label"].astype(int)))
    written, asked = pd.read_csv(tmp_path / "out.csv"), pd.read_csv(real_data / "cytologia" / "test.csv")
    assert written[["trustii_id", "NAME"]].equals(asked) and written["class"].isin(cytologia.CLASSES).all()


def test_real_blood_smears_with_their_own_classes(real_data) -> None:
    path, classes = real_data / "bccd" / "train.csv", ("RBC", "WBC", "Platelets")
    cells = cytologia.read_cells(path, real_data / "bccd" / "images", classes)
    assert cells["Label"].value_counts().to_dict() == {"0": 2487, "1": 224, "2": 214}
    assert (cells["ImageWidth"] == 640).all() and (cells["ImageHeight"] == 480).all()
    probs = np.eye(3)[cells["Label"].astype(int)]
    table = cytologia.score_cells(cells, probs, cells["ImageID"].unique().tolist(), path, classes)
    assert table["Class"].tolist() == [*classes, "mean"] and table["Score"].iloc[-1] == 1
    image = cytologia.read_image(real_data / "bccd" / "images", cells["ImageID"][0])
    own = cells.loc[cells["ImageID"] == cells["ImageID"][0], ["x1", "y1", "x2", "y2"]].to_numpy()
    empty = remove_cells(image, own, rng(1, "fill"))
    stained = image[..., 1] < 165  # the cells; the background is at about 200
    assert stained.mean() > 0.2 and (empty[..., 1] < 165).mean() < 0.005
    assert abs(empty[stained].mean() - image[~stained].mean()) < 15
