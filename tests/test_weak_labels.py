"""Networks that learn about cells from the labels of images, through train.py, test.py and convertpredictions.py."""

from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from small_data import make_small_data, train_flags

import convertpredictions
import test as predict
import train
from augment.crops import dihedral_crop, whole
from augment.views import VIEWS
from cells.store import write_image_png
from cells.table import write_table
from common.errors import UserError
from common.seeds import rng
from competitions import hpa
from engine import checkpoints
from engine.data import Samples
from engine.image_cells import LabelledImages, bags_of, consecutive, kept_cells, read_labels, resize_labels
from engine.samples import ImageReader
from metrics.classification import average_precision

LEVELS = {0: 200, 16: 60, 18: 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """The small data set with whole images of 96 px: four cells each, of which the fourth was dropped at the border."""
    folder = make_small_data(tmp_path_factory.mktemp("weak"))
    for dataset, prefix in (("train", ""), ("test", "test_")):
        for number in range(12):
            write_image(folder, dataset, f"{prefix}image{number:02d}", LEVELS[(0, 16, 18)[number % 3]], number)
    return folder


def write_image(folder: Path, dataset: str, name: str, level: int, number: int) -> None:
    labels = np.zeros((96, 96), np.uint16)
    for cell, (y, x) in enumerate([(4, 4), (50, 8), (40, 60), (70, 70)], start=1):
        labels[y : y + 26, x : x + 26] = cell
    image = rng(9, number).integers(0, 30, (96, 96, 4), dtype=np.uint8)
    image[..., 1] += np.where(labels > 0, level, 0).astype(np.uint8)
    write_image_png(folder / "images" / dataset / f"{name}.png", image)
    cache = folder / "cache" / dataset
    cache.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(cache / f"{name}.cells.png"), labels)
    rows = pd.DataFrame({"CellID": [1, 2, 3, 4], "keep": [1, 1, 1, 0]}).to_csv(index=False)
    (cache / f"{name}.csv").write_text(f"# fingerprint\n{rows}")


def flags(data: Path, arch: str, *more: str) -> list[str]:
    folder = "crops" if arch.startswith("bag") else "images"
    kind = "cell" if arch.startswith("bag") else "image"
    own = {
        "pooled": ["--cache_dir", str(data / "cache"), "--augment", "dihedral_crop"],
        "duo": ["--crop_dir", str(data / "crops")],
        "class": ["--puzzle", "1"],
    }
    return [
        *train_flags(data), "--arch", arch, "--out_dir", arch, "--cell", kind, "--img_path", str(data / folder),
        *own.get(arch.split("_")[0], []), "--img_size", "96", "--crop_size", "64", *more,
    ]  # fmt: skip


def predict_flags(data: Path, arch: str, folder: str, *more: str) -> list[str]:
    return [
        "--base_dir", str(data / "results"), "--out_dir", arch, "--predict_epoch", "2", "--fold", "0", "--img_dir",
        str(data / folder), "--folds_dir", str(data / "cv_folds"), "--gpu_id", "cpu", *more,
    ]  # fmt: skip


def predictions(data: Path, arch: str, view: str = "default") -> tuple[list[str], np.ndarray]:
    path = data / "results" / "submissions" / arch / "fold0" / "epoch_002" / f"{view}_seed0" / "prob_test.npz"
    with np.load(path, allow_pickle=False) as saved:
        return saved["ids"].tolist(), saved["probs"]


CELLS = [f"test_image{image:02d}+{cell}" for image in range(12) for cell in (1, 2, 3)]


@pytest.mark.parametrize(
    ("arch", "folder", "losses"),
    [
        ("bag_test_resnet", "crops", {"train_loss", "train_cell_loss"}),
        ("pooled_test_resnet", "images", {"train_loss", "train_cell_loss", "train_image_loss"}),
        ("duo_test_resnet", "crops", {"train_loss", "train_cell_loss", "train_image_loss"}),
        ("class_test_resnet_cam", "images", {"train_loss", "train_tile_loss", "train_reconstruction"}),
    ],
)
def test_the_road(data, arch, folder, losses):
    """Trained on the images' labels, saved, loaded, predicted cell by cell, converted."""
    train.main(flags(data, arch))
    log = pd.read_csv(data / "results" / "models" / arch / "fold0" / "log.csv")
    assert losses <= set(log) and log["pr_auc"].notna().all() and len(log) == 2
    assert ("pr_auc_cells" in log) == ("train_cell_loss" in losses)

    cache = ["--cache_dir", str(data / "cache")] if folder == "images" else []
    predict.main(predict_flags(data, arch, folder, "--cellorimage", "cell", "--augment", "all", *cache))
    results = {view: predictions(data, arch, view) for view in VIEWS}
    for ids, probs in results.values():
        assert ids == CELLS and probs.shape == (36, 19) and np.isfinite(probs).all()
    assert len({probs.tobytes() for _, probs in results.values()}) == 8

    table = convert(data, arch, "--seeds", "0", "--augment", "all")
    mean = np.mean([probs for _, probs in results.values()], axis=0)
    np.testing.assert_allclose(table.iloc[:, 2:].to_numpy(), mean, atol=1e-6)


def convert(data: Path, arch: str, *more: str) -> pd.DataFrame:
    images = [f"test_image{number:02d}" for number in range(12)]
    keys = [key.split("+") for key in CELLS]
    sample = {"ID": images, "ImageWidth": 96, "ImageHeight": 96, "PredictionString": "0 1 x"}
    write_table(pd.DataFrame(sample), data / "sample.csv")
    cells = {"ImageID": [image for image, _ in keys], "CellID": [int(cell) for _, cell in keys]}
    write_table(pd.DataFrame(cells), data / "cells.csv")
    convertpredictions.main([
        "--model", arch, "--epoch", "2", "--cellorimage", "cell", "--predictions_path",
        str(data / "results" / "submissions"), "--meta_csv_path", str(data / "sample.csv"), "--cell_meta_csv_path",
        str(data / "cells.csv"), "--out_path", str(data / "out"), *more,
    ])  # fmt: skip
    return pd.read_csv(data / "out" / f"probabilities_{arch}_2.csv")


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["bag_test_resnet", "pooled_test_resnet"])
def test_cells_are_told_apart_without_labels_of_their_own(data, arch):
    """Trained well, both find the bright cells among the test images' cells."""
    name = f"{arch}_long"
    more = ["--out_dir", name, "--epochs", "12", "--lr", "0.01", "--effective_batch", "4"]
    train.main(flags(data, arch, *more))
    folder, cache = ("images", ["--cache_dir", str(data / "cache")]) if arch[0] == "p" else ("crops", [])
    predict.main([*predict_flags(data, name, folder, "--cellorimage", "cell", *cache), "--predict_epoch", "12"])
    path = data / "results" / "submissions" / name / "fold0" / "epoch_012" / "default_seed0" / "prob_test.npz"
    with np.load(path) as saved:
        bright = saved["probs"][:, 0].reshape(12, 3)
    assert bright[::3].min() > bright[1::3].max()


def test_images_of_the_same_networks(data):
    """pooled_ networks answer for whole images too, in the form of any image model."""
    if not (data / "results" / "models" / "pooled_test_resnet").exists():
        train.main(flags(data, "pooled_test_resnet"))
    predict.main(predict_flags(data, "pooled_test_resnet", "images", "--dataset", "test", "--cellorimage", "image"))
    ids, probs = predictions(data, "pooled_test_resnet")
    assert ids == [f"test_image{number:02d}" for number in range(12)] and probs.shape == (12, 19)


def test_images_of_the_duo(data):
    """Whole images are judged with their cells, as in training: the scores of the held-out ones are the same."""
    arch = "duo_test_resnet"
    if not (data / "results" / "models" / arch).exists():
        train.main(flags(data, arch))
    more = ["--dataset", "valid", "--split_name", "random_folds4", "--cellorimage", "image", "--predictions_path",
            str(data / "of_images")]  # fmt: skip
    with pytest.raises(UserError, match="judges an image with its cells, the crops of --crop_dir"):
        predict.main(predict_flags(data, arch, "images", *more))
    predict.main(predict_flags(data, arch, "images", *more, "--crop_dir", str(data / "crops"), "--augment", "all"))
    folder = data / "of_images" / arch / "fold0" / "epoch_002"
    with np.load(folder / "default_seed0" / "prob_valid.npz") as saved:
        ids, probs = saved["ids"].tolist(), saved["probs"]
    own = pd.read_csv(data / "cv_folds" / "random_folds4" / "images.csv").set_index("ID")
    assert sorted(ids) == sorted(own.index[own["Fold"] == 0])
    targets = hpa.multi_hot(own.loc[ids, "Label"].astype(str))
    score = np.nanmean(average_precision(probs, targets))
    log = pd.read_csv(data / "results" / "models" / arch / "fold0" / "log.csv")
    assert score == pytest.approx(log["pr_auc"].iloc[-1], abs=1e-6)
    assert len({(folder / f"{view}_seed0" / "prob_valid.npz").read_bytes() for view in VIEWS}) == 8


def test_an_interrupted_puzzle_goes_on(data):
    """Its alpha rises with the batches seen, which the checkpoint remembers."""

    def seen(epochs: str, name: str, *more: str) -> int:
        train.main(flags(data, "class_test_resnet_cam", "--out_dir", name, "--epochs", epochs, *more))
        return checkpoints.read(models / name / "fold0" / "last.pth", "test")["model"]["seen"].item()

    models = data / "results" / "models"
    assert seen("1", "parts") == 2  # 9 images in batches of 4, the rest left out
    assert seen("2", "parts") == 4
    weights = str(models / "parts" / "fold0" / "last.pth")
    assert seen("1", "anew", "--preload", "self", "--resume", weights) == 2  # which begins with its own ramp


@pytest.mark.parametrize(
    ("arch", "more", "message"),
    [
        ("bag_test_resnet", ["--cell", "image"], "--arch bag_test_resnet does not go with --cell image"),
        ("duo_test_resnet", ["--cell", "cell"], "does not go with --cell cell"),
        ("bag_test_resnet", ["--pool", "median"], "--pool median is not known; choose from: max, mean, lse, attention"),
        ("bag_test_resnet", ["--cells_per_image", "0"], "--cells_per_image 0"),
        ("bag_test_resnet", ["--mixup", "0.4"], "which --mixup and --cutmix cannot mix"),
        ("bag_test_resnet", ["--puzzle", "1"], "--puzzle 1 needs the activation maps"),
        ("bag_test_resnet", ["--loss", "CrossEntropy"], "--loss CrossEntropy is for classes that exclude each other"),
        ("class_test_resnet_cam", ["--alpha_schedule", "2"], "--alpha_schedule 2.0"),
    ],
)
def test_refusals(data, arch, more, message):
    with pytest.raises(UserError, match=message):
        train.main(flags(data, arch, "--out_dir", "refused", *more))


@pytest.mark.parametrize(("arch", "flag"), [("pooled_test_resnet", "--cache_dir"), ("duo_test_resnet", "--crop_dir")])
def test_folders_that_are_needed(data, arch, flag):
    given = flags(data, arch, "--out_dir", "refused")
    place = given.index(flag)
    with pytest.raises(UserError, match=f"--arch {arch} needs {flag}"):
        train.main(given[:place] + given[place + 2 :])


def test_refusals_of_prediction(data):
    arch = "pooled_test_resnet"
    if not (data / "results" / "models" / arch).exists():
        train.main(flags(data, arch))
    with pytest.raises(UserError, match="by the label images of --cache_dir"):
        predict.main(predict_flags(data, arch, "images", "--cellorimage", "cell"))
    with pytest.raises(UserError, match="--seed 1: a random crop would cut off cells"):
        more = ["--cellorimage", "cell", "--cache_dir", str(data / "cache"), "--seed", "1"]
        predict.main(predict_flags(data, arch, "images", *more))
    with pytest.raises(UserError, match="--puzzle 1: .* was trained with --puzzle 0"):
        predict.main(predict_flags(data, arch, "images", "--puzzle", "1"))


def labelled(data: Path, augment, crop_size: int) -> LabelledImages:
    folders = [data / "cache" / "train"]
    keys = [f"image{number:02d}" for number in range(12)]
    cells = [kept_cells(folders, key) for key in keys]
    reader = ImageReader([data / "images" / "train"])
    return LabelledImages(reader, keys, None, augment, 96, crop_size, seed=3, folders=folders, cells=cells)


def test_masks_stay_on_their_cells(data):
    """Bright where the cells are and dark elsewhere, whatever the flips and crops; dropped cells are background."""
    samples = labelled(data, dihedral_crop, 48)
    seen = set()
    for epoch in range(20):
        item = samples[epoch, 0][0]
        green, labels = item["images"][1].int(), item["labels"]
        seen.add(int(labels.max()))
        assert labels.shape == (48, 48) and sorted(labels.unique().tolist())[-1] == labels.max() > 0
        for cell in range(1, int(labels.max()) + 1):
            inside = (labels == cell).numpy().astype(np.uint8)
            core = cv2.erode(inside, np.ones((3, 3), np.uint8)).astype(bool)
            assert (green.numpy()[core] >= 150).all()
        assert item["images"].shape == (4, 48, 48)
    assert seen <= {1, 2, 3} and len(seen) > 1
    assert torch.equal(samples[5, 2][0]["labels"], samples[5, 2][0]["labels"])


def test_a_crop_without_cells_becomes_the_whole_image(data):
    def corner(image, crop_size, generator, resize=None):  # nothing lies there
        return image[:3, 90:93]

    item = labelled(data, corner, 3)[1, 0][0]
    assert item["labels"].shape == (3, 3) and item["labels"].max() == 3


def test_rows_are_the_kept_cells(data):
    samples = labelled(data, whole, 64)
    assert samples.rows[:4] == ["image00+1", "image00+2", "image00+3", "image01+1"]


def test_labels_are_counted_anew():
    assert consecutive(np.array([[0, 7, 3], [3, 9, 0]], np.uint16)).tolist() == [[0, 2, 1], [1, 3, 0]]


def test_small_cells_do_not_vanish():
    labels = np.zeros((90, 90), np.uint16)
    labels[:45] = 1
    labels[7, 31], labels[88, 88] = 2, 3
    small = resize_labels(labels, 9)
    assert set(np.unique(small)) == {0, 1, 2, 3} and small[0, 3] == 2 and small[8, 8] == 3
    assert resize_labels(labels, 90) is labels


def test_a_label_image_that_lacks_a_cell(data, tmp_path):
    cv2.imwrite(str(tmp_path / "a.cells.png"), np.array([[0, 1], [1, 3]], np.uint16))
    assert read_labels([tmp_path], "a", np.array([3])).tolist() == [[0, 0], [0, 1]]
    with pytest.raises(UserError, match="a.cells.png lacks cell 2"):
        read_labels([tmp_path], "a", np.array([1, 2]))
    with pytest.raises(UserError, match="a label image does not exist: .*b.cells.png"):
        read_labels([tmp_path], "b", np.array([1]))
    (tmp_path / "a.csv").write_text("# mark\nCellID\n1\n")
    with pytest.raises(UserError, match="a.csv is not what segment.py writes"):
        kept_cells([tmp_path], "a")


class Shades:
    """A reader whose image says its cell."""

    def __call__(self, key, size):
        return np.full((size, size, 4), int(key.split("+")[1]), np.uint8)


def test_bags_by_hand():
    keys = [f"a+{cell}" for cell in range(1, 6)] + ["b+7"]
    targets = np.array([[1, 0]] * 5 + [[0, 1]], np.float32)
    bags = bags_of(Samples(Shades(), keys, targets, whole, 4, 4, seed=1), most=3)
    assert bags.keys == ["a", "b"] and bags.targets.tolist() == [[1, 0], [0, 1]] and len(bags) == 2
    drawn = [bags[epoch, 0][0]["cells"][:, 0, 0, 0].tolist() for epoch in range(30)]
    assert all(len(set(cells)) == 3 for cells in drawn)
    assert {cell for cells in drawn for cell in cells} == {1, 2, 3, 4, 5}
    assert drawn[4] == bags[4, 0][0]["cells"][:, 0, 0, 0].tolist()
    batch, truth, index = bags.collate([bags[0, 1], bags[0, 0]])
    assert batch["counts"].tolist() == [1, 3] and batch["cells"][0, 0, 0, 0] == 7 and len(batch["cells"]) == 4
    assert truth.tolist() == [[0, 1], [1, 0]] and index.tolist() == [1, 0]


def test_bags_with_their_image():
    cells = Samples(Shades(), ["a+1", "b+2", "c+3"], np.eye(3, dtype=np.float32), whole, 4, 4)
    images = Samples(lambda key, size: np.full((size, size, 4), ord(key), np.uint8), ["c", "a", "x"],
                     np.eye(3, dtype=np.float32), whole, 4, 4)  # fmt: skip
    bags = bags_of(cells, 3, images)
    assert bags.keys == ["c", "a"] and bags.targets.tolist() == [[0, 0, 1], [1, 0, 0]]
    batch, _, _ = bags.collate([bags[0, 0], bags[0, 1]])
    assert batch["images"][:, 0, 0, 0].tolist() == [ord("c"), ord("a")]
    assert batch["cells"][:, 0, 0, 0].tolist() == [3, 1]
    with pytest.raises(UserError, match="no image is there with its crops"):
        bags_of(cells, 3, Samples(Shades(), ["x"], None, whole, 4, 4))
