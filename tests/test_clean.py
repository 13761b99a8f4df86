"""clean.py: noisy boxes and images out, images without cells in, and what the road makes of them."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from small_scenes import CLASSES, make_small_scenes

import clean
import competitions
import makefolds
import segment
import train
from clean import place
from common.errors import UserError
from common.seeds import rng
from tasks.detect import without_background

WITH = f"{CLASSES},Background"


@pytest.fixture
def data(tmp_path) -> Path:
    """Small scenes, with a noisy box, an image of noisy boxes alone, one without cells, and near duplicates."""
    folder = make_small_scenes(tmp_path / "data")
    for name in ("dark", "empty"):
        cv2.imwrite(str(folder / "images" / f"{name}.png"), np.full((96, 96, 3), 235, np.uint8))
    with (folder / "train.csv").open("a") as table:
        table.write("0.png,10,10,13,40,Red\ndark.png,5,5,90,9,Blue\nempty.png,0,0,0,0,\n")
    images = pd.DataFrame({"ID": [*(f"{number}.png" for number in range(8)), "dark.png", "empty.png"]})
    images.assign(Cluster=[0, 0, *range(2, 10)], Keep=[1, 0, *[1] * 8], Hash="").to_csv(
        folder / "duplicates.csv", index=False
    )
    return folder


def flags(data: Path, *more: str, classes: str = CLASSES) -> list[str]:
    return [
        "--competition", "cytologia", "--classes", classes, "--metadata", str(data / "train.csv"), "--root_dir",
        str(data / "images"), "--out_dir", str(data / "clean"), *more,
    ]  # fmt: skip


def test_noise_out_backgrounds_in(data, capsys):
    before = pd.read_csv(data / "train.csv", keep_default_na=False)
    assert clean.main(flags(data, "--backgrounds", "5", "--groups", str(data / "duplicates.csv"))) is None
    assert "2 noisy boxes and 1 images out, 5 images without cells in" in capsys.readouterr().out
    table = pd.read_csv(data / "clean" / "train.csv", keep_default_na=False)
    assert table.iloc[:-5].equals(before[~before.index.isin(before.index[-3:-1])].reset_index(drop=True))
    made = table.iloc[-5:]
    assert (made["class"] == "").all() and made["NAME"].str.match(r"background_[02-7]\.png\.png").all()
    folder = data / "clean" / "images"
    assert set(table["NAME"]) == {path.name for path in folder.iterdir()} - {".lock"}
    for name in made["NAME"]:
        pixels = cv2.imread(str(folder / name))
        assert pixels.shape == (96, 96, 3) and pixels.min() > 200  # nothing is left of the cells
    assert (folder / "1.png").resolve() == (data / "images" / "1.png").resolve()
    groups = pd.read_csv(data / "clean" / "duplicates.csv").set_index("ID")
    assert set(groups.index) == set(table["NAME"]) and (groups["Keep"][made["NAME"]] == 1).all()
    for name in made["NAME"]:
        assert groups["Cluster"][name] == groups["Cluster"][name.removeprefix("background_").removesuffix(".png")]

    pixels = {name: (folder / name).read_bytes() for name in made["NAME"]}
    clean.main(flags(data, "--backgrounds", "5"))  # again: the same images but for duplicates
    again = pd.read_csv(data / "clean" / "train.csv")["NAME"]
    assert {path.name for path in folder.glob("background_*")} == {name for name in again if "background" in name}
    both = [name for name in pixels if (folder / name).exists()]
    assert len(both) > 2 and all((folder / name).read_bytes() == pixels[name] for name in both)


def test_own_files_are_not_written_over(data):
    before = {path: path.read_bytes() for path in data.rglob("*") if path.is_file()}
    own = flags(data, "--backgrounds", "1")
    own[own.index("--out_dir") + 1] = str(data)
    with pytest.raises(UserError, match="--out_dir .* holds --metadata .*train.csv, which would be lost"):
        clean.main(own)
    (data / "own.csv").write_bytes((data / "train.csv").read_bytes())
    (data / "train.csv").unlink()
    own[own.index("--metadata") + 1] = str(data / "own.csv")
    with pytest.raises(UserError, match=r"--out_dir .*png is no link that clean.py made; choose another folder"):
        clean.main(own)
    assert all(path.read_bytes() == content for path, content in before.items() if path.name != "train.csv")


def test_a_broken_image_makes_no_background_and_the_rest_goes_on(data, capsys):
    broken = data / "images" / "3.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    assert clean.main(flags(data, "--backgrounds", "7")) == 1
    assert "no image without cells was made of: " in (said := capsys.readouterr().err) and "3.png" in said
    made = pd.read_csv(data / "clean" / "train.csv")["NAME"].str.startswith("background_").sum()
    assert made == 7 == len(list((data / "clean" / "images").glob("background_*")))


def test_folds_keep_a_background_with_its_source(data, capsys):
    clean.main(flags(data, "--backgrounds", "7", "--groups", str(data / "duplicates.csv")))
    own = ["--competition", "cytologia", "--classes", CLASSES, "--metadata", str(data / "clean" / "train.csv")]
    out = ["--folds_dir", str(data / "folds"), "--split_name", "two", "--n_folds", "2", "--drop_duplicates"]
    makefolds.main([*own, *out, "--groups", str(data / "clean" / "duplicates.csv")])
    folds = pd.read_csv(data / "folds" / "two" / "images.csv").set_index("ID")["Fold"]
    made = [name for name in folds.index if name.startswith("background_")]
    assert len(made) == 7 and "1.png" not in folds.index
    assert all(folds[name] == folds[name.removeprefix("background_").removesuffix(".png")] for name in made)


def test_images_that_networks_contradict_go(data, tmp_path):
    truth = pd.read_csv(data / "train.csv", keep_default_na=False)
    found = truth[(truth["NAME"] != "3.png") & (truth["class"] != "")].rename(columns={"NAME": "ImageID"})
    found = found.assign(CellID=range(1, len(found) + 1), score=0.9)
    found.loc[found["ImageID"] == "5.png", ["x1", "x2"]] += 60  # missed, and extra finds
    extra = found.iloc[:1].assign(ImageID="background_0.png.png")  # of a first cleaning
    pd.concat([found, extra]).to_csv(tmp_path / "found.csv", index=False)
    clean.main(flags(data, "--found", str(tmp_path / "found.csv"), "--worst", "2"))
    left = set(pd.read_csv(data / "clean" / "train.csv", keep_default_na=False)["NAME"])
    assert "5.png" not in left and {"0.png", "3.png", "4.png", "empty.png"} <= left  # nobody looked at 3.png
    listed = pd.read_csv(data / "clean" / "noisy.csv")
    assert listed["ImageID"][0] == "5.png" and "3.png" not in set(listed["ImageID"])
    assert (listed["Missed"][0], listed["Extra"][0]) == (listed["Truths"][0],) * 2
    images = truth[["NAME"]].drop_duplicates().assign(trustii_id=range(truth["NAME"].nunique()))
    images.to_csv(tmp_path / "looked.csv", index=False)
    own = ["--found", str(tmp_path / "found.csv"), "--looked", str(tmp_path / "looked.csv"), "--worst", "2"]
    clean.main(flags(data, *own))
    listed = pd.read_csv(data / "clean" / "noisy.csv").set_index("ImageID")
    own = int((truth["NAME"] == "3.png").sum())
    assert listed.loc["3.png"].tolist() == [own, own, 0]  # nothing was found in it
    found.assign(ImageID="z.png").to_csv(tmp_path / "found.csv", index=False)
    with pytest.raises(UserError, match=r"found.csv has the image z.png, which .*train.csv lacks"):
        clean.main(flags(data, "--found", str(tmp_path / "found.csv"), "--worst", "2"))


def test_backgrounds_as_a_class(data, capsys):
    clean.main(flags(data, "--backgrounds", "4", classes=WITH))
    competition = competitions.get("cytologia", WITH)
    cells = competition.read_cells(data / "clean" / "train.csv", root=data / "clean" / "images")
    own = cells[cells["Label"] == "3"]
    assert len(own) == 4 and own["ImageID"].str.startswith("background_").all()
    assert (own[["x1", "y1"]] >= 0).all(axis=None) and (own[["x2", "y2"]] <= 96).all(axis=None)
    assert (own["x2"] - own["x1"]).between(17, 27).all()  # as large as a cell
    assert len(without_background(cells, competition)) == len(cells) - 4
    assert without_background(cells, competitions.get("cytologia", CLASSES)) is cells


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "loss"), [("cell", "CrossEntropy"), ("image", "Focal")])
def test_a_classifier_with_a_background_class(data, kind, loss):
    """Crops of background (one class of several), and images without cells (one of several classes at once)."""
    clean.main(flags(data, "--backgrounds", "6", classes=WITH))
    table, images = data / "clean" / "train.csv", data / "clean" / "images"
    own = ["--competition", "cytologia", "--classes", WITH]
    folders = (
        "--meta_dir",
        data / "m",
        "--crop_dir",
        data / "cell",
        "--img_dir",
        data / "image",
        "--cache_dir",
        data / "c",
    )
    assert not segment.main(
        [*own, "--finder", "truth", "--metadata", str(table), "--root_dir", str(images), "--dataset", "train",
         *map(str, folders), "--img_size", "64", "--workers", "0"]
    )  # fmt: skip
    split, cells = ["--folds_dir", str(data / "folds"), "--split_name", "two"], str(data / "m" / "train_cell.csv")
    makefolds.main([*own, "--metadata", str(table), "--cell_metadata", cells, *split, "--n_folds", "2"])
    folds = pd.read_csv(data / "folds" / "two" / ("cells.csv" if kind == "cell" else "images.csv"), dtype=str)
    assert (folds["Label"] == "3").sum() == 6
    train.main(
        [*own, *split, "--out_dir", "Own", "--result_dir", str(data), "--cell", kind, "--arch", "test_resnet",
         "--img_path", str(data / kind), "--img_size", "32", "--crop_size", "32", "--batch_size", "4", "--epochs", "1",
         "--lr", "0.003", "--gpu_id", "cpu", "--loss", loss]
    )  # fmt: skip
    log = pd.read_csv(data / "models" / "Own" / "fold0" / "log.csv")
    assert "AP Background" in log and ("macro_f1" in log) == (kind == "cell")


def test_places_by_hand():
    boxes = np.array([[0.0, 0, 30, 10]])
    places = np.array([place(boxes, (20, 40, 3), rng(1, str(number))) for number in range(200)])
    assert set(places[:, 0]) == set(range(11)) and set(places[:, 1]) == set(range(11))
    assert (places[:, 2:] - places[:, :2] == [30, 10]).all()
    assert place(boxes, (8, 8), rng(1)) == (0, 0, 8, 8)


def test_an_image_full_of_cells_gives_no_background(data, capsys):
    (data / "train.csv").write_text("NAME,x1,y1,x2,y2,class\n0.png,0,0,96,96,Red\n")
    clean.main(flags(data, "--backgrounds", "1"))
    assert "only 0 images show enough background to make --backgrounds 1" in capsys.readouterr().out
    assert (data / "clean" / "train.csv").read_text() == (data / "train.csv").read_text()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--backgrounds", "-1"], "--backgrounds -1 must be 0 or more"),
        (["--worst", "3"], "--found, cells tables, and --worst, how many images to leave out, go together"),
        (["--groups", "none.csv"], "does not exist: none.csv"),
        (["--root_dir", "none"], "--root_dir does not exist: none"),
        (["--classes", "Red,White"], "'Blue' is no class; known: Red, White"),
    ],
)
def test_bad_flags(data, more, message):
    with pytest.raises(UserError, match=message):
        clean.main(flags(data, *more))
    assert not (data / "clean" / "train.csv").exists()


def test_centres_are_refused(data):
    (data / "train.csv").write_text("image_filename,x,y,width,height,class_name,class\n0.png,50,50,100,100,NILM,0\n")
    with pytest.raises(UserError, match="train.csv must have boxes as corners, in columns x1, y1, x2, y2"):
        clean.main(["--competition", "riva", *flags(data)[4:]])
