"""Networks that see nuclei alone: what is cut out, the seven classes, and the road to the table of nineteen."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from small_data import train_flags

import convertpredictions
import test as predict
import train
from augment.crops import whole
from cells.crops import cut_cell
from cells.store import write_shard
from cells.table import write_table
from common.errors import UserError
from common.seeds import rng
from competitions import get
from engine.data import Samples
from engine.nuclei import nuclei_of
from engine.samples import CropReader

BOXES = {1: (4, 6, 34, 26), 2: (50, 10, 70, 50)}  # x1, y1, x2, y2: one wide cell, one high
LABELS = ("0", "1|16", "16")


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Twelve images of 80 x 60 pixels, two cells each; nuclei are bright in class 0, less in 1, dark without."""
    folder, rows = tmp_path_factory.mktemp("nuclei"), []
    for number in range(12):
        write_image(folder, f"image{number:02d}", number)
        rows.append({"ID": f"image{number:02d}", "Label": LABELS[number % 3], "Fold": number % 4})
    table = pd.DataFrame(rows)
    write_table(table, folder / "cv_folds" / "random_folds4" / "images.csv")
    write_table(table[["ID", "Label"]], folder / "train.csv")
    keys = [(image, cell) for image in table["ID"] for cell in BOXES]
    write_table(pd.DataFrame(keys, columns=["ImageID", "CellID"]), folder / "cells.csv")
    return folder


def write_image(folder: Path, name: str, number: int) -> None:
    cells, nuclei = np.zeros((2, 60, 80), np.uint16)
    image = rng(5, number).integers(0, 20, (60, 80, 4), dtype=np.uint8)
    for cell, (x1, y1, x2, y2) in BOXES.items():
        cells[y1:y2, x1:x2] = cell
        nuclei[y1 + 4 : y1 + 14, x1 + 6 : x1 + 12] = cell
    image[..., 1] += np.where(nuclei > 0, (200, 100, 0)[number % 3], 50).astype(np.uint8)
    write_shard(folder / "crops" / "train" / f"{name}.zip", {
        cell: cut_cell(image, cells, cell, box) for cell, box in BOXES.items()
    })  # fmt: skip
    cache = folder / "cache" / "train"
    cache.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(cache / f"{name}.nuclei.png"), nuclei)
    rows = pd.DataFrame([(cell, *box, 1) for cell, box in BOXES.items()], columns=["CellID", *"abcd", "keep"])
    text = rows.set_axis(["CellID", "x1", "y1", "x2", "y2", "keep"], axis=1).to_csv(index=False)
    (cache / f"{name}.csv").write_text(f"# fingerprint\n{text}")


def samples(data: Path, *keys: str) -> Samples:
    cells = Samples(CropReader([data / "crops" / "train"]), list(keys), None, whole, 10, 10)
    return nuclei_of(cells, data / "cache", "train")


def test_a_nucleus_is_cut_out_of_its_cell(data):
    """10 x 6 pixels in the middle of a square of 10, one channel, zero around."""
    for key in ("image00+1", "image00+2"):
        image = samples(data, key)[0, 0][0]
        assert image.shape == (1, 10, 10)
        assert (image[0, :, 2:8] >= 200).all() and (image[0, :, :2] == 0).all() and (image[0, :, 8:] == 0).all()
    assert samples(data, "image00+1").reader("image00+1", 224).shape == (224, 224)


def test_a_cell_without_a_nucleus_is_black(data, tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "image00.csv").write_bytes((data / "cache" / "train" / "image00.csv").read_bytes())
    cv2.imwrite(str(tmp_path / "train" / "image00.nuclei.png"), np.zeros((60, 80), np.uint16))
    cells = Samples(CropReader([data / "crops" / "train"]), ["image00+1"], None, whole, 10, 10)
    assert not nuclei_of(cells, tmp_path, "train")[0, 0][0].any()
    cv2.imwrite(str(tmp_path / "train" / "image00.nuclei.png"), np.zeros((10, 10), np.uint16))
    with pytest.raises(UserError, match="image00.nuclei.png does not go with the crop of cell 1"):
        cells[0, 0]


def test_the_seven_classes():
    nuclei = get("hpa", nuclei=True)
    assert nuclei.CLASSES[:2] == ("0:Nucleoplasm", "1:Nuclear membrane") and len(nuclei.CLASSES) == 7
    hot = nuclei.multi_hot(pd.Series(["0|5", "16", "3|16", "18"]))
    expected = [[1, 0, 0, 0, 0, 1, 0], [0] * 6 + [1], [0, 0, 0, 1, 0, 0, 0], [0] * 6 + [1]]
    assert hot.tolist() == expected and hot.dtype == np.float32
    assert (nuclei.CHANNELS, nuclei.MEAN, nuclei.STD) == (("green",), (0.050630,), (0.085745,))
    assert len(get("hpa").CLASSES) == 19
    with pytest.raises(UserError, match="--competition riva has no classes of nuclei"):
        get("riva", nuclei=True)


def test_spread_by_hand():
    wide = convertpredictions.spread(np.array([[0.1, 0.2, 0.9]]), ["b", "a", "none"], ["a", "b", "c"])
    assert wide.tolist() == [[0.2, 0.1, 0.0]]


def flags(data: Path, *more: str) -> list[str]:
    return [
        *train_flags(data), "--cell", "nucleus", "--cache_dir", str(data / "cache"), "--img_size", "32",
        "--crop_size", "32", *more,
    ]  # fmt: skip


def test_colours_are_not_changed_where_there_are_none(data):
    with pytest.raises(UserError, match="--augment stained_crop changes colours; dihedral_crop and none are"):
        train.main(flags(data, "--augment", "stained_crop"))


def test_the_road(data):
    train.main(flags(data))
    log = pd.read_csv(data / "results" / "models" / "run" / "fold0" / "log.csv")
    assert log[["AP 0:Nucleoplasm", "AP none of these"]].notna().all().all()
    common = [
        "--base_dir", str(data / "results"), "--out_dir", "run", "--predict_epoch", "2", "--img_dir",
        str(data / "crops"), "--dataset", "train", "--gpu_id", "cpu",
    ]  # fmt: skip
    predict.main([*common, "--cache_dir", str(data / "cache"), "--augment", "default,flipud"])
    path = data / "results" / "submissions" / "run" / "fold0" / "epoch_002" / "flipud_seed0" / "prob_train.npz"
    with np.load(path) as saved:
        assert saved["probs"].shape == (24, 7) and saved["ids"][3] == "image01+2"
    convertpredictions.main([
        "--model", "run", "--epoch", "2", "--cellorimage", "nucleus", "--seeds", "0", "--dataset", "train",
        "--predictions_path", str(data / "results" / "submissions"), "--meta_csv_path", str(data / "train.csv"),
        "--cell_meta_csv_path", str(data / "cells.csv"), "--out_path", str(data / "out"),
    ])  # fmt: skip
    table = pd.read_csv(data / "out" / "probabilities_run_2.csv")
    assert len(table) == 24 and list(table)[2:] == list(get("hpa").CLASSES)
    assert (table.iloc[:, 2:8] > 0).all().all() and (table.iloc[:, 8:] == 0).all().all()

    with pytest.raises(UserError, match="--cellorimage cell: .* was trained with --cell nucleus"):
        predict.main([*common, "--cellorimage", "cell"])
    with pytest.raises(UserError, match="--cellorimage nucleus: .* by the label images of --cache_dir"):
        predict.main(common)


def test_refusals(data):
    given = flags(data, "--out_dir", "refused")
    place = given.index("--cache_dir")
    with pytest.raises(UserError, match="--cell nucleus needs --cache_dir"):
        train.main(given[:place] + given[place + 2 :])
    with pytest.raises(UserError, match="--in_channels 4: hpa images have 1"):
        train.main([*given, "--in_channels", "4"])
    (data / "cache" / "train" / "image00.csv").rename(data / "away.csv")
    try:
        with pytest.raises(UserError, match="the cells of an image does not exist: .*image00.csv"):
            samples(data, "image00+1")
    finally:
        (data / "away.csv").rename(data / "cache" / "train" / "image00.csv")
