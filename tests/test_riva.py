"""RIVA's files: reading, refusing, the submission in both forms, the score; the real Pap smears where they are."""

import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import ensemble
import evaluate
import makefolds
import segment
from cells.boxes import to_centres
from cells.table import write_table
from common.errors import UserError
from competitions import riva

HEADER = "image_filename,x,y,width,height,class_name,class"
ROWS = ["a.png,50.5,40,100,100,NILM,0", "a.png,10,60,100,100,SCC,7", "b.png,20,30,100,100,SCC,7"]


def write(path: Path, *rows: str, header: str = HEADER) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


@pytest.fixture
def truth(tmp_path) -> Path:
    return write(tmp_path / "annotations" / "val.csv", *ROWS)


@pytest.fixture
def images(tmp_path) -> Path:
    """Two images of 120 x 90 and 64 x 64 pixels, in a doubled folder."""
    folder = tmp_path / "val" / "val"
    folder.mkdir(parents=True)
    picture = np.zeros((90, 120, 3), np.uint8)
    picture[..., 2] = 200  # red, as OpenCV orders channels
    cv2.imwrite(str(folder / "a.png"), picture)
    cv2.imwrite(str(folder / "b.png"), np.zeros((64, 64), np.uint8))
    return folder.parent


def test_centres_become_corners(truth) -> None:
    cells = riva.read_cells(truth)
    assert cells["Image"].tolist() == ["a.png+1", "a.png+2", "b.png+1"]
    assert cells[["x1", "y1", "x2", "y2"]].to_numpy().tolist()[:2] == [[0.5, -10, 100.5, 90], [-40, 10, 60, 110]]
    assert cells["Label"].tolist() == ["0", "7", "7"] and (cells["score"] == 1).all()
    assert (cells[["ImageWidth", "ImageHeight"]] == 0).all(axis=None)


def test_labels_are_the_images(truth) -> None:
    labels = riva.read_labels(truth)
    assert labels.to_dict("list") == {"ID": ["a.png", "b.png"], "Label": ["0|7", "7"]}
    assert np.argwhere(riva.multi_hot(labels["Label"])).tolist() == [[0, 0], [0, 7], [1, 7]]


def test_images_in_doubled_folders_are_read(truth, images) -> None:
    cells = riva.read_cells(truth, images)
    assert cells[["ImageWidth", "ImageHeight"]].to_numpy().tolist() == [[120, 90], [120, 90], [64, 64]]
    image = riva.read_image(images, "a.png")
    assert image.shape == (90, 120, 3) and image[0, 0].tolist() == [200, 0, 0]
    assert riva.read_image(images, "b.png").shape == (64, 64, 3)
    assert riva.read_metadata(images)["ID"].tolist() == ["a.png", "b.png"]


def test_annotations_in_a_doubled_folder_are_read(tmp_path) -> None:
    write(tmp_path / "annotations" / "annotations" / "train.csv", *ROWS)
    assert len(riva.read_cells(tmp_path / "annotations" / "train.csv")) == 3
    assert len(riva.read_metadata(tmp_path / "annotations" / "train.csv")) == 2


def test_programs_find_doubled_folders(truth, images, tmp_path) -> None:
    """A download's annotations/annotations/train.csv and images/images/train, named without the doubling."""
    (tmp_path / "twice" / "twice").mkdir(parents=True)
    table = tmp_path / "twice" / "truth.csv"
    shutil.copy(truth, tmp_path / "twice" / "twice" / "truth.csv")
    shutil.copytree(images / "val", tmp_path / "images" / "images" / "train")
    flags = ["--competition", "riva", "--metadata", str(table)]
    found = ["--root_dir", str(tmp_path / "images" / "train"), "--finder", "truth", "--workers", "0"]
    folders = [f"--{name}={tmp_path / name}" for name in ("meta_dir", "crop_dir", "img_dir", "cache_dir")]
    assert not segment.main([*flags, *found, *folders])
    own = ["--folds_dir", str(tmp_path / "folds"), "--split_name", "held", "--holdout", "1", "--tables"]
    makefolds.main([*flags, *own])
    rows = [line for fold in (0, 1) for line in (tmp_path / f"folds/held/fold{fold}.csv").read_text().splitlines()[1:]]
    assert sorted(rows) == sorted(truth.read_text().splitlines()[1:])


def test_an_image_without_cells_needs_no_box(tmp_path) -> None:
    path = write(tmp_path / "val.csv", *ROWS, "empty.png,,,,,,")
    assert len(riva.read_cells(path)) == 3 and riva.read_labels(path)["Label"].tolist()[-1] == ""
    for row, column in ((f"{ROWS[0].split(',')[0]},,5,100,100,NILM,0", "x"), ("empty.png,0,0,a,0,,", "width")):
        with pytest.raises(UserError, match=rf"val.csv row 5, column {column}: .* is not a finite number"):
            riva.read_cells(write(tmp_path / "val.csv", *ROWS, row))


def test_an_image_without_cells_has_a_row_without_a_class(tmp_path) -> None:
    path = write(tmp_path / "val.csv", *ROWS, "empty.png,0,0,0,0,,")
    assert riva.read_labels(path)["Label"].tolist() == ["0|7", "7", ""]
    assert len(riva.read_cells(path)) == 3


def test_equal_rows_stay_equal_cells(tmp_path) -> None:
    assert len(riva.read_cells(write(tmp_path / "val.csv", ROWS[0], ROWS[0]))) == 2


def test_other_classes(tmp_path) -> None:
    path = write(tmp_path / "val.csv", "a.png,5,5,9,9,dog,0", "a.png,5,5,9,9,cat,1")
    assert riva.read_cells(path, classes=("dog", "cat"))["Label"].tolist() == ["0", "1"]
    with pytest.raises(UserError, match="row 2, column class: 0 is not the place"):
        riva.read_cells(path, classes=("cat", "dog"))


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("a.png,50,40,0,100,NILM,0", "row 2, column width: 0 makes a box without area"),
        ("a.png,50,40,100,-3,NILM,0", "row 2, column height: -3 makes a box without area"),
        (
            "a.png,-2.5,40,100,100,NILM,0",
            "row 2, column x: -2.5 lies outside the image; x and y are the centre of a box",
        ),
        ("a.png,50,-1,100,100,NILM,0", "row 2, column y: -1 lies outside the image"),
        ("a.png,121,40,100,100,NILM,0", "row 2, column x: 121 lies outside the image"),
        ("a.png,50,90.5,100,100,NILM,0", "row 2, column y: 90.5 lies outside the image"),
        ("a.png,50,40,100,100,LISL,4", "row 2, column class_name: 'LISL' is no class; known: NILM, ENDO.*SCC"),
        ("a.png,50,40,100,100,LSIL,5", "row 2, column class: 5 is not the place, from 0, of its class_name"),
        ("a.png,fifty,40,100,100,NILM,0", "row 2, column x: 'fifty' is not a finite number"),
        ("c.png,50,40,100,100,NILM,0", "c.png is missing"),
        ("../a.png,50,40,100,100,NILM,0", "cannot be a file name"),
    ],
)
def test_bad_rows_are_named(tmp_path, images, row, why) -> None:
    with pytest.raises(UserError, match=why):
        riva.read_cells(write(tmp_path / "bad.csv", row), images)


def test_corner_columns_are_missed_by_name(tmp_path) -> None:
    path = write(tmp_path / "bad.csv", "a.png,1,1,2,2,NILM", header="image_filename,x1,y1,x2,y2,class_name")
    with pytest.raises(UserError, match="lacks the column x, y, width and 1 more; it has image_filename, x1"):
        riva.read_cells(path)


def test_unreadable_images_are_named(tmp_path, truth, images) -> None:
    (images / "val" / "a.png").write_bytes(b"no image")
    for read in (lambda: riva.read_image(images, "a.png"), lambda: riva.read_cells(truth, images)):
        with pytest.raises(riva.ImageError, match="a.png is not a readable image"):
            read()
    with pytest.raises(riva.ImageError, match="z.png is missing"):
        riva.read_image(images, "z.png")
    (tmp_path / "none").mkdir()
    with pytest.raises(UserError, match="has no image"):
        riva.read_metadata(tmp_path / "none")


def test_truth_against_itself_scores_one_through_the_file(tmp_path, truth, capsys) -> None:
    cells = riva.read_cells(truth)
    probs = np.eye(8)[cells["Label"].astype(int)]
    riva.write_submission(tmp_path / "submission.csv", riva.read_metadata(truth), cells, probs)
    text = (tmp_path / "submission.csv").read_text().splitlines()
    assert text[:2] == ["image_filename,x,y,width,height,conf,class", "a.png,50.5,40.0,100.0,100.0,1.0000,0"]
    table = riva.score(tmp_path / "submission.csv", truth)
    assert table["AP"].iloc[-1] == table["AP50"].iloc[-1] == 1 and table["Truths"].iloc[-1] == 3
    assert riva.score_cells(cells, probs, ["a.png", "b.png"], truth)["AP"].iloc[-1] == 1
    assert riva.score_cells(cells, probs, ["b.png"], truth)["Truths"].iloc[-1] == 1
    arguments = ["--competition", "riva", "--submission", str(tmp_path / "submission.csv"), "--truth", str(truth)]
    assert not evaluate.main(arguments)
    assert "COCO mAP@[.50:.05:.95]: 1.0000" in capsys.readouterr().out


def test_kaggles_form_and_an_image_without_detections(tmp_path, truth) -> None:
    sample = write(
        tmp_path / "sample_submission.csv", "1,c.png,0,0,100,100,1,0", "2,b.png,0,0,100,100,1,0", "3,b.png,0,0,9,9,1,0",
        header="id,image_filename,x,y,width,height,conf,class",
    )  # fmt: skip
    cells = riva.read_cells(truth).iloc[2:].assign(score=0.8)
    probs = np.array([[0.3, 0.0012, 0, 0.00126, 0, 0, 0, 0.6]])
    riva.write_submission(tmp_path / "out.csv", riva.read_metadata(sample), cells, probs)
    assert (tmp_path / "out.csv").read_text().splitlines() == [
        "id,image_filename,x,y,width,height,conf,class",
        "1,c.png,50.0,50.0,100.0,100.0,0.0000,0",
        "2,b.png,20.0,30.0,100.0,100.0,0.4800,7",
        "3,b.png,20.0,30.0,100.0,100.0,0.2400,0",
        "4,b.png,20.0,30.0,100.0,100.0,0.0010,3",
    ]
    riva.write_submission(tmp_path / "none.csv", riva.read_metadata(sample), cells.iloc[:0], probs[:0])
    assert len((tmp_path / "none.csv").read_text().splitlines()) == 3


def test_the_road_ends_in_a_submission(tmp_path, truth, capsys) -> None:
    cells = riva.read_cells(truth)
    own = pd.DataFrame(np.eye(8)[cells["Label"].astype(int)], columns=riva.CLASSES)
    write_table(cells.drop(columns="Label"), tmp_path / "cells.csv")
    write_table(pd.concat([cells[["ImageID", "CellID"]], own], axis=1), tmp_path / "probs.csv")
    config = pd.DataFrame([{"Predictions": "probs.csv", "Type": "cell", **dict.fromkeys(riva.CLASSES, 1)}])
    write_table(config, tmp_path / "two.csv")
    arguments = ["--competition", "riva", "--dataset", "val", "--submission", "1", "--meta_csv", truth,
                 "--cell_meta_csv_path", tmp_path / "cells.csv", "--out_path", tmp_path, "--truth", truth]  # fmt: skip
    assert not ensemble.main([str(word) for word in (tmp_path / "two.csv", *arguments)])
    assert "1.0000" in capsys.readouterr().out.splitlines()[-1]
    assert riva.score(tmp_path / "submission_two.csv", truth)["AP"].iloc[-1] == 1


def test_low_scored_boxes_help(truth) -> None:
    cells = riva.read_cells(truth)
    probs = np.full((3, 8), 0.02)
    probs[:, 0] = 0.86
    low = riva.score_cells(cells, probs, ["a.png", "b.png"], truth)
    assert low["AP"][7] > 0.6 and low["Detections"].iloc[-1] == 24
    high = riva.score_cells(cells, np.where(probs < 0.3, 0, probs), ["a.png", "b.png"], truth)
    assert high["AP"][7] == 0


def test_submissions_that_do_not_fit_are_refused(tmp_path, truth) -> None:
    cells = riva.read_cells(truth)
    with pytest.raises(UserError, match="the sample has no row for a.png"):
        riva.write_submission(tmp_path / "out.csv", pd.DataFrame({"ID": ["b.png"]}), cells, np.zeros((3, 8)))
    with pytest.raises(UserError, match="lacks the column score"):
        riva.detections(cells.drop(columns="score"), np.zeros((3, 8)))
    assert not (tmp_path / "out.csv").exists()
    sample = write(tmp_path / "sample.csv", "row_1,a.png", header="id,image_filename")
    with pytest.raises(UserError, match="column id must number the rows; 'row_1'"):
        riva.read_metadata(sample)
    with pytest.raises(UserError, match="z.png, which .* does not have"):
        riva.score_cells(cells, np.zeros((3, 8)), ["z.png"], truth)


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("a.png,5,5,100,100,0.5,8", "row 2, column class: 8 is no class index 0 to 7"),
        ("a.png,5,5,100,100,1.5,0", "row 2, column conf: 1.5 is no confidence in 0..1"),
        ("a.png,5,5,0,100,0.5,0", "row 2, column width: 0 makes a box without area"),
        ("a.png,5,5,100,100,0.5,0.5", "row 2, column class: 0.5 is not a whole number"),
        ("z.png,5,5,100,100,0.5,0", "names the image z.png, which .*val.csv does not have"),
    ],
)
def test_bad_submission_rows_are_named(tmp_path, truth, row, why) -> None:
    path = write(tmp_path / "bad.csv", row, header="image_filename,x,y,width,height,conf,class")
    with pytest.raises(UserError, match=why):
        riva.score(path, truth)


def test_a_truth_without_cells_cannot_be_scored_against(tmp_path) -> None:
    empty = write(tmp_path / "empty.csv", "a.png,0,0,0,0,,")
    path = write(tmp_path / "sub.csv", "a.png,5,5,100,100,0.5,0", header="image_filename,x,y,width,height,conf,class")
    with pytest.raises(UserError, match="empty.csv has no labelled row to score against"):
        riva.score(path, empty)


def test_the_real_pap_smears_go_through(real_data, tmp_path) -> None:
    path, root = real_data / "cric" / "train.csv", real_data / "cric" / "images"
    cells = riva.read_cells(path, root)
    assert len(cells) == 539 and cells["ImageID"].nunique() == 18 and (cells["ImageWidth"] == 1280).all()
    source = pd.read_csv(path)
    assert to_centres(cells[["x1", "y1", "x2", "y2"]].to_numpy())[:, 0] == pytest.approx(source["x"].to_numpy())
    assert cells["Label"].astype(int).tolist() == source["class"].tolist()
    probs = np.eye(8)[cells["Label"].astype(int)]
    riva.write_submission(tmp_path / "sub.csv", riva.read_metadata(path), cells, probs)
    table = riva.score(tmp_path / "sub.csv", path)
    assert table["AP"].iloc[-1] == 1
    assert table.set_index("Class")["Truths"]["LSIL"] == 103 and np.isnan(table.set_index("Class")["AP"]["ENDO"])
    assert re.fullmatch(
        r"\S+\.jpg,[\d.]+,[\d.]+,100.0,100.0,1.0000,\d", (tmp_path / "sub.csv").read_text().split("\n")[1]
    )


def test_a_sample_without_rows(tmp_path) -> None:
    path = write(tmp_path / "sample.csv", header="id,image_filename,class,x,y,width,height,conf")
    with pytest.raises(UserError, match="sample.csv has no rows"):
        riva.read_metadata(path)
