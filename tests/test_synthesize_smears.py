"""Made-up Pap and blood smears: files as the competitions have them, determinism, classes that can be told apart."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import synthesize
from cells.table import read_table
from common.errors import UserError
from common.seeds import rng
from competitions import cytologia as cytologia_form
from competitions import riva as riva_form
from synthesis import blood, cytologia, pictures, riva
from synthesis.pictures import Request

MODULES = {"riva": riva, "cytologia": cytologia}
FLAGS = {"riva": ["--size", "200x160", "--train", "4", "--val", "2"], "cytologia": ["--train", "5"]}


def make(folder: Path, name: str, *flags: str) -> Path:
    common = ["--competition", name, "--out_dir", str(folder), "--test", "3", "--seed", "4"]
    assert not synthesize.main([*common, *FLAGS[name], *flags])
    return folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    return {name: make(tmp_path_factory.mktemp("made") / name, name) for name in MODULES}


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ---------------------------------------------------------------- files


@pytest.mark.parametrize(("split", "count"), [("train", 4), ("val", 2), ("test", 3)])
def test_riva_has_the_competitions_form(made, split, count):
    table = read_table(made["riva"] / "annotations" / f"{split}.csv", riva.COLUMNS)
    assert list(table) == ["image_filename", "x", "y", "width", "height", "class_name", "class"]
    paths = sorted((made["riva"] / "images" / split).iterdir())
    assert len(paths) == count and sorted(set(table["image_filename"])) == [path.name for path in paths]
    assert all(cv2.imread(str(path)).shape == (160, 200, 3) for path in paths)
    assert (table[["width", "height"]] == 100).all(axis=None)
    assert table["x"].between(0, 199.9).all() and table["y"].between(0, 159.9).all()
    assert np.allclose(10 * table[["x", "y"]], np.round(10 * table[["x", "y"]]))
    assert [riva.CLASSES[label] for label in table["class"]] == table["class_name"].tolist()


def test_the_sample_submission_names_every_test_image_of_riva(made):
    text = (made["riva"] / "sample_submission.csv").read_text().splitlines()
    assert text[0] == "id,image_filename,x,y,width,height,conf,class"
    truth = read_table(made["riva"] / "annotations" / "test.csv", riva.COLUMNS)
    assert {line.split(",")[1] for line in text[1:]} == set(truth["image_filename"])


def test_class_numbers_are_the_competitions():
    assert riva.CLASSES == ("NILM", "ENDO", "INFL", "ASCUS", "LSIL", "HSIL", "ASCH", "SCC")
    names = "PNN LY MO EO BA Er PM Thromb LAM3 Lysee LyB LLC MBL LGL B M MM LF MoB LH_lyAct LM LZMG SS"
    assert list(blood.CLASSES) == names.split()


def test_cytologia_has_the_challenges_form(made):
    folder = made["cytologia"]
    for split, name in (("train", "train.csv"), ("test", "test_truth.csv")):
        table = read_table(folder / name, cytologia.COLUMNS)
        assert list(table) == ["NAME", "x1", "y1", "x2", "y2", "class"]
        paths = sorted((folder / split).iterdir())
        assert sorted(set(table["NAME"])) == [path.name for path in paths]
        assert all(cv2.imread(str(path)).shape == (368, 370, 3) for path in paths)
        assert (table["x1"] < table["x2"]).all() and (table["y1"] < table["y2"]).all()
        assert set(table["class"]) <= set(blood.CLASSES)
    test = read_table(folder / "test.csv", {"trustii_id": int, "NAME": str}, key=["trustii_id"])
    truth = read_table(folder / "test_truth.csv", cytologia.COLUMNS)
    assert test["NAME"].tolist() == truth["NAME"].tolist()


def test_the_competitions_modules_read_the_truth(made):
    assert tuple(riva_form.CLASSES) == riva.CLASSES and tuple(cytologia_form.CLASSES)[:23] == blood.CLASSES
    for module, name, table, images in (
        (riva_form, "riva", "annotations/val.csv", "images/val"),
        (cytologia_form, "cytologia", "train.csv", "train"),
        (cytologia_form, "cytologia", "test_truth.csv", "test"),
    ):
        path = made[name] / table
        assert len(module.read_cells(path, made[name] / images)) == len(path.read_text().splitlines()) - 1
    assert len(riva_form.read_metadata(made["riva"] / "sample_submission.csv")) == 3
    wanted = cytologia_form.read_metadata(made["cytologia"] / "test.csv")["Count"]
    assert wanted.sum() == len(read_table(made["cytologia"] / "test_truth.csv", cytologia.COLUMNS))


@pytest.mark.parametrize("name", MODULES)
def test_running_again_draws_only_what_is_missing(made, tmp_path, monkeypatch, name):
    folder = make(tmp_path / name, name)
    assert files(folder) == files(made[name])
    for lost in (sorted(folder.rglob("*.png")) + sorted(folder.rglob("*.jpg")))[:1]:
        lost.unlink()
    drawn, original = [], MODULES[name].write_image
    monkeypatch.setattr(MODULES[name], "write_image", lambda *task: drawn.append(task) or original(*task))
    make(folder, name)
    assert len(drawn) == 1 and files(folder) == files(made[name])
    make(folder, name, "--test", "4")
    assert len(drawn) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_jobs_do_not_change_a_byte(made, tmp_path, name):
    assert files(make(tmp_path / name, name, "--jobs", "2")) == files(made[name])


@pytest.mark.parametrize("name", MODULES)
def test_other_seeds_and_splits_differ(name):
    request = Request(4, 160, 160)
    first, _ = MODULES[name].draw_image(request, "train", 0)
    assert (first == MODULES[name].draw_image(request, "train", 0)[0]).all()
    for other in (Request(5, 160, 160), "train"), (request, "test"):
        assert (MODULES[name].draw_image(*other, 0)[0] != first).any()


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("cytologia", ("--val", "3"), "--val is not for cytologia, which has only train, test"),
        ("riva", ("--val", "-1"), "--val -1 must be 0 or more"),
        ("riva", ("--train", "0", "--val", "0", "--test", "0"), "--train 0 --val 0 --test 0 asks for no image"),
        ("riva", ("--size", "64"), "--size 64 must be"),
        ("cytologia", ("--cells", "0"), "--cells 0 must be MIN-MAX"),
        ("cytologia", ("--class_balance", "real"), "--class_balance real is not known; choose from: flat, natural"),
    ],
)
def test_bad_flags_are_refused_before_anything_is_written(tmp_path, name, flags, message):
    with pytest.raises(UserError, match=message):
        make(tmp_path / "none", name, *flags)
    assert not (tmp_path / "none").exists()


def test_overwrite_takes_away_another_competitions_files(tmp_path):
    folder = make(tmp_path / "one", "cytologia")
    with pytest.raises(UserError, match="holds data of other settings"):
        make(folder, "riva")
    make(folder, "riva", "--overwrite")
    assert not (folder / "test.csv").exists() and (folder / "annotations" / "test.csv").exists()


# ---------------------------------------------------------------- what is drawn


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.integers(128, 400), st.integers(128, 400), st.integers(1, 12))
def test_fields_of_any_size_hold_the_cells_that_are_asked_for(seed, width, height, count):
    request = Request(seed, width, height, (count, count), "flat")
    spots = riva.place(rng(seed), request)
    assert len(spots) == count
    assert all(0 <= spot.x < width and 0 <= spot.y < height for spot in spots)
    pixels, boxes = cytologia.draw_image(request, "test", 0)
    assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8 and len(boxes) == count


def test_nuclei_of_a_smear_lie_apart_and_endocervical_cells_together():
    spots = riva.place(rng(7), Request(7, 1024, 1024, (60, 60), "flat"))
    points = np.array([spot.point for spot in spots])
    far = np.hypot(*(points[:, None] - points).transpose(2, 0, 1)) + 1e6 * np.eye(len(points))
    assert far.min() > 20
    sheet = np.array([spot.name == "ENDO" for spot in spots])
    assert sheet.sum() > 2 and far[sheet][:, sheet].min(axis=1).max() < 60


def test_boxes_of_a_smear_leave_the_image():
    spots = [spot for index in range(4) for spot in riva.place(rng(index), Request(index, 512, 512, (20, 20)))]
    assert any(spot.x < 50 or spot.x > 462 for spot in spots)
    boxes = [box for index in range(30) for _, box in cytologia.draw_image(Request(1, 200, 200), "test", index)[1]]
    assert any(min(box[:2]) < 0 for box in boxes) and any(max(box[2:]) > 200 for box in boxes)


@pytest.mark.parametrize(("balance", "least"), [("natural", 0.9), ("flat", None)])
def test_classes_come_as_often_as_asked(balance, least):
    names = [
        spot.name for index in range(400) for spot in riva.place(rng(index), Request(1, 1024, 1024, (10, 10), balance))
    ]
    shares = pd.Series(names).value_counts(normalize=True).reindex(riva.CLASSES)
    wanted = pictures.frequencies((look.count for look in riva.LOOKS.values()), balance)
    assert np.abs(shares - wanted).max() < 0.04
    assert least is None or np.corrcoef(shares, wanted)[0, 1] > least


def test_some_training_images_are_an_earlier_one_again():
    request = Request(2, 140, 140)
    sources = [cytologia.source_of(request, "train", index) for index in range(1000)]
    copies = [index for index, source in enumerate(sources) if source != index]
    assert 15 < len(copies) < 50 and all(sources[index] < index for index in copies)
    assert all(sources[sources[index]] == sources[index] for index in copies)
    assert all(cytologia.source_of(request, "test", index) == index for index in range(200))
    copy = copies[0]
    (one, boxes), (two, moved) = (cytologia.draw_image(request, "train", index) for index in (copy, sources[copy]))
    assert np.abs(one.astype(int) - two).mean() < 12
    assert [name for name, _ in boxes] == [name for name, _ in moved]
    assert np.abs(np.array([box for _, box in boxes]) - [box for _, box in moved]).max() <= 2


def test_every_blood_cell_has_pixels_of_its_own_and_a_fitting_box():
    for name, look in blood.LOOKS.items():
        smear = blood.Smear(rng(1, name), np.zeros((300, 300, 3), np.float32), {})
        smear.noises.update(dict.fromkeys(("fine", "mid", "wide"), np.zeros((300, 300), np.float32)))
        x1, y1, x2, y2 = blood.draw_cell(smear, look, np.array([150.0, 150.0]), look.size)
        drawn = np.argwhere(smear.canvas.sum(axis=2) > 0.02)
        extra = 30 if look.villi else 12
        assert np.abs(drawn.min(axis=0) - [y1, x1]).max() < extra and np.abs(drawn.max(axis=0) - [y2, x2]).max() < extra


# ---------------------------------------------------------------- drawing


def test_density_makes_its_colour_from_white_light():
    colour = np.array([200, 120, 60])
    assert np.allclose(255 * 10 ** -pictures.density(*colour), colour, atol=1e-3)
    canvas = np.broadcast_to(pictures.density(*colour), (64, 64, 3)).copy()
    seen = pictures.expose(rng(1), canvas, (255, 255, 255), 0.5, 0.0)
    assert np.abs(seen.mean(axis=(0, 1)) - colour).max() < 8


def test_fill_covers_the_pixels_that_its_contour_touches():
    square = np.array([[10.0, 20], [30, 20], [30, 50], [10, 50]])
    place, alpha = pictures.fill(square, (100, 100), 1.0)
    assert 20 * 30 < alpha.sum() < 22 * 32
    assert place[0].start < 20 and place[1].stop > 30
    assert pictures.fill(square - 200, (100, 100)) is None
    half = pictures.fill(square - [20, 0], (100, 100), 0.0)
    assert half.place[1].start == 0 and 10 * 30 < half.alpha.sum() < 11 * 32


def test_an_outline_has_the_area_of_its_circle():
    areas = [cv2.contourArea(pictures.outline(rng(k), 20, 2.0, 0.3, 0.05).astype(np.float32)) for k in range(20)]
    assert np.mean(areas) == pytest.approx(np.pi * 400, rel=0.05)
    x, y = np.ptp(pictures.outline(rng(1), 20, 4.0, 0.0, 0.0), axis=0)
    assert (x, y) == (pytest.approx(80, rel=0.01), pytest.approx(20, rel=0.01))


def test_one_name_for_two_images_is_refused():
    with pytest.raises(UserError, match="same name; choose another --seed"):
        pictures.check_ids(["a", "b", "a"])


# ---------------------------------------------------------------- learnable, but not at once


def _traits(crop: np.ndarray) -> np.ndarray:
    """Simple traits of a crop: share of pixels by darkness and by hue, and colour by distance from the middle."""
    crop = cv2.resize(crop, (64, 64), interpolation=cv2.INTER_AREA).astype(np.float32)
    y, x = np.indices((64, 64)) - 31.5
    ring = np.minimum(np.hypot(y, x) // 4, 8).astype(int)
    profile = [crop[ring == number].mean(axis=0) for number in range(9)]
    spread = [crop[ring == number].std(axis=0) for number in range(9)]
    levels = [np.histogram(crop[..., channel], 12, (0, 256))[0] / 400 for channel in range(3)]
    return np.concatenate([*profile, *spread, *(100 * level for level in levels)])


def _forest_accuracy(crops: list[np.ndarray], names: list[str]) -> float:
    from sklearn.ensemble import RandomForestClassifier

    traits, names = np.array([_traits(crop) for crop in crops]), np.array(names)
    split = len(names) * 2 // 3
    forest = RandomForestClassifier(150, random_state=0).fit(traits[:split], names[:split])
    return float((forest.predict(traits[split:]) == names[split:]).mean())


def _crop(pixels: np.ndarray, x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    padded = np.pad(pixels, ((400, 400), (400, 400), (0, 0)))
    return padded[y1 + 400 : y2 + 400, x1 + 400 : x2 + 400]


@pytest.mark.slow
def test_the_classes_of_pap_smears_can_be_learned_but_not_at_once():
    crops, names = [], []
    for index in range(60):
        pixels, spots = riva.draw_image(Request(9, 512, 512, (10, 10), "flat"), "train", index)
        for spot in spots:
            x, y = int(spot.x) - 50, int(spot.y) - 50
            crops.append(_crop(pixels, x, y, x + 100, y + 100))
            names.append(spot.name)
    assert 0.4 < _forest_accuracy(crops, names) < 0.9


@pytest.mark.slow
def test_the_classes_of_blood_smears_can_be_learned_but_not_at_once():
    crops, names = [], []
    for index in range(300):
        pixels, boxes = cytologia.draw_image(Request(9, 220, 220, (1, 1), "flat"), "test", index)
        for name, box in boxes:
            crops.append(_crop(pixels, *box))
            names.append(name)
    assert 0.35 < _forest_accuracy(crops, names) < 0.9
