"""The competition neurons: both forms in and out, checks, scores; real images there and back."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

import competitions
import evaluate
import makefolds
import submit
import train
from cells import rle
from cells.masks import decode_mask
from common.errors import UserError
from competitions import neurons
from engine.train import Progress

SIZE = (30, 40)


def disc(x: int, y: int, radius: int) -> str:
    rows, columns = np.ogrid[: SIZE[0], : SIZE[1]]
    return rle.encode((rows - y) ** 2 + (columns - x) ** 2 <= radius**2)


CELLS = {"a": [disc(8, 8, 5), disc(25, 12, 6)], "b": [disc(20, 15, 9)], "c": []}
TYPES = {"a": "cort", "b": "astro", "c": "cort"}


def write(path: Path, rows: list[dict]) -> Path:
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


@pytest.fixture
def truth(tmp_path) -> Path:
    """train.csv of three images, of which `c` has no cell; the images beside it."""
    (tmp_path / "train").mkdir()
    rows = []
    for name, masks in CELLS.items():
        cv2.imwrite(str(tmp_path / "train" / f"{name}.png"), np.full(SIZE, 7, np.uint8))
        more = {"width": SIZE[1], "height": SIZE[0], "cell_type": TYPES[name]}
        rows += [{"id": name, "annotation": mask, **more} for mask in masks or [""]]
    return write(tmp_path / "train.csv", rows)


def test_cells_table(truth):
    cells = neurons.read_cells(truth, truth.parent / "train")
    assert cells["Image"].tolist() == ["a+1", "a+2", "b+1"]
    assert cells["Label"].tolist() == ["2", "2", "1"] and cells["cell_type"].tolist() == ["cort", "cort", "astro"]
    assert cells[["ImageWidth", "ImageHeight"]].drop_duplicates().to_numpy().tolist() == [[40, 30]]
    assert cells[["x1", "y1", "x2", "y2"]].iloc[0].tolist() == [3, 3, 14, 14]
    masks = [decode_mask(text, *SIZE) for text in cells["PredictionString"]]
    assert [rle.encode(mask) for mask in masks] == CELLS["a"] + CELLS["b"]
    assert cells["area"].tolist() == [mask.sum() for mask in masks]
    labels = neurons.read_labels(truth)
    assert labels["ID"].tolist() == ["a", "b", "c"] and labels["Label"].tolist() == ["2", "1", "2"]
    np.testing.assert_array_equal(neurons.multi_hot(labels["Label"]), np.eye(3)[[2, 1, 2]])


def test_the_short_form_takes_the_sizes_from_the_images(truth):
    short = pd.read_csv(truth, keep_default_na=False)[["id", "annotation"]].to_dict("records")
    path = write(truth.parent / "short.csv", short)
    one = competitions.get("neurons", "cell")
    long = neurons.read_cells(truth)
    same = ["Image", "PredictionString", "ImageWidth", "ImageHeight", "x1", "y1", "x2", "y2"]
    pd.testing.assert_frame_equal(one.read_cells(path, root=truth.parent / "train")[same], long[same])
    assert set(one.read_labels(path)["Label"]) == {"0"}
    with pytest.raises(UserError, match="has no columns width and height; give the folder"):
        one.read_cells(path)
    with pytest.raises(UserError, match="has no column cell_type; name one class"):
        neurons.read_labels(path)


def test_a_truth_without_sizes_is_scored_beside_its_images(truth, capsys):
    table = pd.read_csv(truth, keep_default_na=False)
    write(truth.parent / "plain.csv", table[["id", "annotation"]].to_dict("records"))
    cells, sample = neurons.read_cells(truth), neurons.read_metadata(truth)
    cells = cells.drop_duplicates("ImageID")  # cells that do not overlap
    out = truth.parent / "submission.csv"
    neurons.write_submission(out, sample, cells, np.eye(3)[cells["Label"].astype(int)])
    flags = ["--competition", "neurons", "--submission", str(out), "--truth", str(truth.parent / "plain.csv")]
    with pytest.raises(UserError, match="plain.csv has no columns width and height; give the folder of the images"):
        evaluate.main(flags)
    evaluate.main([*flags, "--root_dir", str(truth.parent / "train")])
    plain = capsys.readouterr().out
    evaluate.main(["--competition", "neurons", "--submission", str(out), "--truth", str(truth)])
    assert plain.splitlines()[-1] == capsys.readouterr().out.splitlines()[-1]


def test_true_cells_may_overlap_and_stay_whole(tmp_path):
    texts = [disc(15, 15, 8), disc(20, 15, 8), disc(17, 15, 3)]
    more = {"width": SIZE[1], "height": SIZE[0], "cell_type": "cort"}
    path = write(tmp_path / "train.csv", [{"id": "a", "annotation": text, **more} for text in texts])
    cells = neurons.read_cells(path)
    assert [rle.encode(decode_mask(text, *SIZE)) for text in cells["PredictionString"]] == texts
    found = write(tmp_path / "found.csv", [{"id": "a", "predicted": texts[1]}])
    table = neurons.score(found, path)
    assert table["AP"].iloc[-1] == pytest.approx(1 / 3)  # a hit, two misses; drawn first to last it would be no hit


@pytest.mark.parametrize("form", ["annotation", "predicted"])
def test_submission_there_and_back_scores_one(truth, form):
    sample = write(truth.parent / "sample.csv", [{"id": name, form: ""} for name in ("c", "a", "b")])
    cells, images = neurons.read_cells(truth), neurons.read_metadata(sample)
    probs = np.eye(3)[cells["Label"].astype(int)]
    neurons.write_submission(truth.parent / "out.csv", images, cells, probs)
    out = pd.read_csv(truth.parent / "out.csv", keep_default_na=False, dtype=str)
    empty = {"annotation": "-1", "predicted": ""}[form]
    assert out.columns.tolist() == (["idx", "id", form] if form == "annotation" else ["id", form])
    assert list(zip(out["id"], out[form], strict=True)) == [
        ("c", empty), ("a", CELLS["a"][0]), ("a", CELLS["a"][1]), ("b", CELLS["b"][0]),
    ]  # fmt: skip
    table = neurons.score(truth.parent / "out.csv", truth)
    assert table["Class"].tolist() == ["cort", "astro", "mean"] and (table["AP"] == 1).all()
    assert table["Truths"].tolist() == [2, 1, 3]


def test_type_of_the_image_gives_threshold_and_smallest_area():
    area = len(rle.pixels(disc(20, 15, 6), SIZE[0] * SIZE[1], ""))
    assert neurons.MIN_AREAS["cort"] < area < neurons.MIN_AREAS["astro"]
    labels = np.zeros(SIZE, np.int32)
    labels.ravel()[rle.pixels(disc(20, 15, 6), SIZE[0] * SIZE[1], "")] = 1
    texts = [neurons.encode_label_image(labels)[1]]
    row = {"ImageID": "a", "ImageWidth": SIZE[1], "ImageHeight": SIZE[0], "PredictionString": texts, "score": 0.5}
    cells = pd.DataFrame(row)
    kinds = dict(zip(neurons.CLASSES, np.eye(3), strict=True))
    assert not neurons.final_labels(cells, kinds["cort"][None]).any()  # not sure enough
    assert not neurons.final_labels(cells, kinds["astro"][None]).any()  # too small
    np.testing.assert_array_equal(neurons.final_labels(cells, kinds["shsy5y"][None]), labels)
    assert neurons.final_labels(cells, np.ones((1, 1)), classes=("nucleus",)).max() == 1


def test_finds_that_overlap_go_to_the_higher_score_and_score_as_written(truth):
    cells = neurons.read_cells(truth)
    wrong = cells.iloc[[2]].assign(CellID=9, Image="b+9", score=0.9, PredictionString=cells["PredictionString"][1])
    found = pd.concat([cells, wrong], ignore_index=True)
    probs = np.eye(3)[found["Label"].astype(int)]
    own = neurons.score_cells(found, probs, ["a", "b", "c"], truth)
    neurons.write_submission(truth.parent / "out.csv", neurons.read_metadata(truth), found, probs)
    pd.testing.assert_frame_equal(neurons.score(truth.parent / "out.csv", truth), own)
    assert own["AP"].tolist()[:2] == [1, 1]  # what is left of the wrong cell is too small for an astrocyte
    only = neurons.score_cells(found, probs, ["c"], truth)
    assert only["Images"].iloc[-1] == 1 and only["AP"].iloc[-1] == 1
    none = neurons.score_cells(found.iloc[:0], probs[:0], ["a"], truth)
    assert none["AP"].iloc[-1] == 0


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([("a", "1 2 3")], "row 2 \\(a\\): 3 numbers"),
        ([("a", "1 5"), ("a", "1200 2")], "row 3 \\(a\\): a run ends at pixel 1201, but the image has 1200 pixels"),
        ([("a", "1 5"), ("b", "9 9"), ("a", "3 1")], "row 4 \\(a\\): the mask overlaps that of row 2"),
        ([("a", "1 5"), ("z", "1 5")], "row 3: the image z is not known"),
        ([("a", "1 5")], "lacks the image b, c"),
        ([("a", "1 5"), ("a", "")], "row 3: the annotation of a is empty, but the image has other rows"),
        ([("a", "-1"), ("a", "-1")], "row 2: the annotation of a is empty, but"),
    ],
)
def test_bad_submissions_are_refused(truth, rows, message):
    path = write(truth.parent / "bad.csv", [{"id": name, "annotation": text} for name, text in rows])
    with pytest.raises(UserError, match=message):
        neurons.score(path, truth)


def test_bad_truth_is_refused(truth):
    rows = pd.read_csv(truth, keep_default_na=False).to_dict("records")
    path = truth.parent / "bad.csv"
    with pytest.raises(UserError, match="a is 40 x 30 pixels, but .* says 41 x 30"):
        neurons.read_cells(write(path, [{**row, "width": 41} for row in rows]), truth.parent / "train")
    with pytest.raises(UserError, match="gives the image a more than one cell_type"):
        neurons.read_cells(write(path, [{**rows[0], "cell_type": "astro"}, *rows[1:]]))
    with pytest.raises(UserError, match="has the cell_type glia; --classes names shsy5y, astro, cort"):
        neurons.read_labels(write(path, [{**row, "cell_type": "glia"} for row in rows]))
    with pytest.raises(UserError, match="lacks the column annotation"):
        neurons.read_cells(write(path, [{"id": "a", "mask": "1 2"}]))
    with pytest.raises(UserError, match="z.png is missing"):
        neurons.read_image(truth.parent / "train", "z")
    with pytest.raises(UserError, match="row 3: cell_type is empty"):
        neurons.read_cells(write(path, [rows[0], {**rows[1], "cell_type": ""}, *rows[2:]]))
    with pytest.raises(UserError, match="row 2: id is empty"):
        neurons.read_cells(write(path, [{**rows[0], "id": ""}, *rows[1:]]))
    for width in (-3, 0, 10**9):
        with pytest.raises(UserError, match=f"row 2: width {width} must be from 1 to 65536 pixels"):
            neurons.score(truth, write(path, [{**row, "width": width} for row in rows]))
    wide = [{name: row[name] for name in ("id", "annotation", "width")} for row in rows]
    with pytest.raises(UserError, match="has one of the columns width and height; both or none are right"):
        neurons.read_metadata(write(path, wide))
    path.write_text("id,annotation,width,height,cell_type\n")
    for read in (neurons.read_metadata, neurons.read_cells, lambda path: neurons.score(path, truth)):
        with pytest.raises(UserError, match="has no image"):
            read(path)
    path.write_text("")
    with pytest.raises(UserError, match="cannot be read as a table"):
        neurons.read_metadata(path)


def test_finds_of_another_size_are_refused(truth):
    cells = neurons.read_cells(truth).iloc[:1]
    other = cells.assign(ImageHeight=40, ImageWidth=30)
    with pytest.raises(UserError, match="the cells of a are for 30 x 40 pixels, but .* says 40 x 30"):
        neurons.score_cells(other, np.eye(3)[[2]], ["a"], truth)
    out = truth.parent / "out.csv"
    with pytest.raises(UserError, match="the cells of a are for 30 x 40 pixels, but the metadata says 40 x 30"):
        neurons.write_submission(out, neurons.read_metadata(truth), other, np.eye(3)[[2]])
    both = pd.concat([cells, other.assign(CellID=9)], ignore_index=True)
    sample = neurons.read_metadata(truth).drop(columns=["ImageWidth", "ImageHeight"])
    with pytest.raises(UserError, match="the cells of a are for images of several sizes"):
        neurons.write_submission(out, sample, both, np.eye(3)[[2, 2]])
    with pytest.raises(UserError, match="cell 1 of a: mask text zzz is damaged"):
        neurons.write_submission(out, sample, cells.assign(PredictionString="zzz"), np.eye(3)[[2]])
    with pytest.raises(UserError, match="the cells have boxes and no masks"):
        neurons.write_submission(out, sample, cells.assign(PredictionString=""), np.eye(3)[[2]])
    assert not out.exists()


def test_what_a_cell_must_reach_may_be_given(truth, capsys):
    folder = truth.parent
    cells = neurons.read_cells(truth).assign(score=0.3)
    cells.to_csv(folder / "cells.csv", index=False)
    flags = ["--competition", "neurons", "--metadata", str(truth), "--cell_meta_csv_path", str(folder / "cells.csv")]
    low = ["--score_threshold", "0.3"]
    for more, count in (([], 0), (low, 3), ([*low, "--min_area", "999"], 0)):
        submit.main([*flags, "--out_path", str(folder / "out.csv"), *more])
        assert f"out.csv: {count} of 3 cells in 3 images" in capsys.readouterr().out
        table = pd.read_csv(folder / "out.csv", dtype=str)
        assert (table["annotation"] != "-1").sum() == count
    with pytest.raises(UserError, match="--min_area is for neurons; a submission of riva holds all cells"):
        submit.main([*flags, "--competition", "riva", "--out_path", str(folder / "out.csv"), "--min_area", "3"])


def test_the_published_training_is_what_runs(truth, tmp_path, monkeypatch):
    """The starter's settings (system D), as the loop and the network get them."""
    seen, folds = {}, tmp_path / "folds"
    monkeypatch.setattr(train, "fit", lambda fabric, task, optimizer, plan, say: seen.update(vars()) or Progress())
    one = ["--competition", "neurons", "--metadata", str(truth)]
    makefolds.main([*one, "--folds_dir", str(folds), "--split_name", "neurons_folds10", "--n_folds", "2"])
    train.main([
        *one, "--root_dir", str(truth.parent / "train"), "--folds_dir", str(folds), "--out_dir", "x", "--gpu_id", "cpu",
        "--result_dir", str(tmp_path), "--arch", "maskrcnn_resnet18",
    ])  # fmt: skip
    assert neurons.TRAIN_DEFAULTS["detect"]["arch"] == "maskrcnn_convnext_tiny"
    task, optimizer, plan = seen["task"], seen["optimizer"], seen["plan"]
    assert type(optimizer).__name__ == "AdamW" and max(g["weight_decay"] for g in optimizer.param_groups) == 5e-4
    assert (plan.epochs, plan.clip_norm, plan.skip_nonfinite, task.select) == (20, 1, 100, "mAP")
    worse = [{"mAP": 0.5}, *[{"mAP": 0.4}] * 3]  # halved after two epochs without a better one
    assert plan.rate(0, []) == 1e-4 and plan.rate(4, worse) == 5e-5
    assert task.train.canvas == (544, 704)  # of images of 30 x 40, their longer side 704
    heads = task.model.roi_heads
    assert heads.detections_per_img > 790 and task.model.rpn.post_nms_top_n() > 790  # the densest image's cells
    assert heads.box_predictor.cls_score.out_features == 2
    assert neurons.THRESHOLDS == {"shsy5y": 0.15, "astro": 0.35, "cort": 0.55, "": 0.5}


@pytest.mark.parametrize("name", ["sartorius", "dsb2018", "usiigaci"])
def test_real_cells_there_and_back(real_data, name, tmp_path):
    table = pd.read_csv(real_data / name / "train.csv")
    chosen = table["id"].drop_duplicates().iloc[:: max(1, table["id"].nunique() // 3)]
    table = table[table["id"].isin(chosen)]
    table.to_csv(tmp_path / "train.csv", index=False)
    cells = neurons.read_cells(tmp_path / "train.csv", real_data / name / "train", tuple(table["cell_type"].unique()))
    back = [
        rle.encode(decode_mask(text, height, width))
        for text, height, width in zip(
            cells["PredictionString"], cells["ImageHeight"], cells["ImageWidth"], strict=True
        )
    ]
    assert back == table["annotation"].tolist()
    where = table["id"].tolist()
    first = table["id"] == table["id"].iloc[0]
    size = cells[["ImageHeight", "ImageWidth"]].iloc[0]
    layers = rle.decode_layers(table["annotation"][first].tolist(), *size, where[: first.sum()])
    if len(layers) == 1:  # drawn as one label image, and written from it
        assert list(rle.encode_labels(layers[0]).values()) == back[: first.sum()]
    else:
        assert name == "sartorius"


def test_real_submission_is_valid(real_data):
    folder = real_data / "sartorius" / "test"
    table = neurons.check_submission(folder / "submission_chia-shein.csv", folder)
    found = dict(zip(table["ID"], table["Cells"], strict=True))
    assert found == {"d8bfd1dafdc4": 36, "d48ec7815252": 45, "7ae19de7bc2a": 187}
    assert table["Covered"].between(0.04, 0.15).all()
    with pytest.raises(UserError, match="is not known"):
        neurons.check_submission(folder / "submission_chia-shein.csv", real_data / "sartorius" / "train")
