"""Finders through the scripts: folds, training, cells found and cut, the classifier on top, bad input."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_blobs import CLASSES as BLOBS
from small_blobs import make_small_blobs
from small_scenes import CLASSES, make_small_scenes

import competitions
import convertpredictions
import ensemble
import evaluate
import makefolds
import segment
import test as predict
import train
from augment.scenes import SCENES
from cells import network_finder
from cells.network_finder import Fusing, fuse_finds, undo_boxes
from cells.store import Store
from common.errors import UserError
from engine.device import make_fabric
from engine.scenes import Scenes
from engine.settings import resolve
from models import build_detector
from tasks.detect import detector_options, found_table, samples, validate
from tasks.instances import image_pairs, instance_scores

ARCH = "centernet_fpn_tf_efficientnet_lite0"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = make_small_scenes(tmp_path_factory.mktemp("scenes"))
    makefolds.main([*common(folder), "--metadata", str(folder / "train.csv"), *split(folder), "--holdout", "3"])
    return folder


def common(folder: Path) -> list[str]:
    return ["--competition", "cytologia", "--classes", CLASSES]


def split(folder: Path) -> list[str]:
    return ["--folds_dir", str(folder / "folds"), "--split_name", "held"]


def train_flags(folder: Path, *more: str) -> list[str]:
    return [
        *common(folder), *split(folder), "--out_dir", "Detector", "--result_dir", str(folder / "results"),
        "--arch", ARCH,
        "--metadata", str(folder / "train.csv"), "--root_dir", str(folder / "images"), "--img_size", "96",
        "--batch_size", "4", "--epochs", "2", "--warmup_epochs", "0", "--optimizer", "AdamW",
        "--lr", "0.002", "--mosaic_epochs", "0", "--augment", "riva", "--ema", "0.5", "--gpu_id", "cpu", *more,
    ]  # fmt: skip


def segment_flags(folder: Path, out: Path, *more: str) -> list[str]:
    flags = [*common(folder), "--metadata", str(folder / "train.csv"), "--root_dir", str(folder / "images")]
    for name in ("meta_dir", "crop_dir", "img_dir", "cache_dir"):
        flags += [f"--{name}", str(out / name)]
    return [*flags, "--img_size", "64", "--workers", "0", "--gpu_id", "cpu", *more]


@pytest.fixture(scope="module")
def trained(data: Path) -> Path:
    train.main(train_flags(data))
    return data / "results" / "models" / "Detector" / "fold0"


@pytest.mark.slow
def test_a_detector_is_trained_and_goes_on(data, trained, tmp_path):
    log = pd.read_csv(trained / "log.csv")
    assert log["epoch"].tolist() == [1, 2] and {"mAP", "AP50", "train_heatmap", "train_size"} <= set(log)
    flags = [*train_flags(data), "--result_dir", str(tmp_path)]
    train.main([*flags, "--epochs", "1"])
    train.main(flags)
    again = tmp_path / "models" / "Detector" / "fold0"
    assert pd.read_csv(again / "log.csv").equals(log)
    first, second = (torch.load(one / "002.pth", weights_only=True)["model"] for one in (trained, again))
    assert all(torch.equal(first[name], second[name]) for name in first)


class Told(torch.nn.Module):
    """A detector that is told where the validation images' cells are, and sees each so far beside."""

    def __init__(self, samples: Scenes, shift: float):
        super().__init__()
        self.samples, self.shift, self.asked = samples, shift, 0

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        targets = [self.samples[0, index][1] for index in range(self.asked, self.asked + len(images))]
        self.asked += len(images)
        return [{"boxes": one["boxes"] + self.shift, "labels": one["labels"], "scores": torch.ones(len(one["labels"]))}
                for one in targets]  # fmt: skip


def test_validation_scores_the_true_boxes_with_1(data):
    args, competition = train.settled(train_flags(data, "--num_classes", "3", "--batch_size", "2", "--img_size", "64"))
    valid = samples(args, competition)[1]
    assert len(valid) == 3 and valid.canvas != valid.shape(valid.keys[0])  # boxes are brought back
    right, beside = (
        validate(make_fabric("cpu", False), Told(valid, shift), valid, args, competition) for shift in (0, 40)
    )
    known = [right[name] for name in right if not np.isnan(right[name])]
    assert {"mAP", "AP50"} <= set(right) and len(right) == 5 and known == [1.0] * len(known)
    assert beside["AP50"] == 0


def test_mosaics_end_with_their_epochs_and_are_not_judged(data):
    cells = competitions.get("cytologia", CLASSES).read_cells(data / "train.csv", root=data / "images")
    keys = sorted(set(cells["ImageID"]))
    options = {"root": data / "images", "keys": keys, "cells": cells, "canvas": (96, 96), "single": True}
    scenes = Scenes(competitions.get("cytologia", CLASSES), change=SCENES["none"], mosaic_epochs=2, **options)
    whole = [torch.equal(scenes[epoch, 0][0], scenes[9, 0][0]) for epoch in (0, 1, 2, 3)]
    assert whole == [True, False, False, True]  # epoch 0 is validation
    assert [scenes[epoch, 0][1]["late"] for epoch in (1, 2, 3)] == [False, False, True]


def test_images_without_cells_are_samples(data):
    competition = competitions.get("cytologia", CLASSES)
    cells = competition.read_cells(data / "train.csv", root=data / "images")
    keys = sorted(set(cells["ImageID"]))[:2]
    options = {"root": data / "images", "canvas": (64, 64), "single": True, "change": SCENES["none"], "masks": False}
    scenes = Scenes(competition, keys=keys, cells=cells[cells["ImageID"] == keys[0]].reset_index(drop=True), **options)
    image, target, _ = scenes[1, 1]
    assert image.shape == (3, 64, 64) and target["boxes"].shape == (0, 4) and target["labels"].shape == (0,)
    assert scenes.shape(keys[1]) == scenes.shape(keys[0]) == (96, 96)
    find = {"boxes": np.float32([[8, 8, 16, 16]]), "scores": np.ones(1), "labels": np.zeros(1)}
    table = found_table(scenes, {1: find})
    assert table[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[12, 12, 24, 24]]


def test_instances_of_an_image_without_cells(tmp_path):
    folder = make_small_blobs(tmp_path, images=2)
    competition = competitions.get("neurons", "cell")
    cells = competition.read_cells(folder / "train.csv", root=folder / "images")
    cells = cells[cells["ImageID"] == "0"].reset_index(drop=True)
    options = {"root": folder / "images", "canvas": (64, 96), "single": True, "change": SCENES["none"], "masks": True}
    scenes = Scenes(competition, keys=["0", "1"], cells=cells, **options)
    assert scenes[1, 1][1]["masks"].shape == (0, 64, 96)
    nothing = {"boxes": np.zeros((0, 4), np.float32), "scores": np.zeros(0), "masks": np.zeros((0, 28, 28), np.float32)}
    scores = instance_scores(scenes, {index: image_pairs(scenes, index, nothing) for index in (0, 1)})
    assert scores["mAP"] == 0.5 and scores["AP no cells"] == 1 and scores["AP cell"] == 0


@pytest.mark.slow
def test_a_detector_finds_cells(data, trained, tmp_path):
    weights = str(trained / "best.pth")
    flags = segment_flags(data, tmp_path, "--weights", f"{weights},{weights}", "--augment", "default,fliplr")
    assert segment.main([*flags, "--score_threshold", "0.0", "--max_cells", "7"]) is None
    cells = pd.read_csv(tmp_path / "meta_dir" / "train_cell.csv")
    assert len(cells) and cells.groupby("ImageID").size().max() <= 7
    assert cells["score"].between(0, 1).all() and (cells["x2"] > cells["x1"]).all() and (cells["x2"] <= 96).all()
    assert cells["Label"].isna().all()  # it was trained to find cells of any class
    store = Store(tmp_path / "crop_dir" / "train")
    row = cells.iloc[0]
    crop = store.read(row["ImageID"], row["CellID"])
    assert crop.shape[2] == 3 and abs(crop.shape[0] - 32 - max(row["x2"] - row["x1"], row["y2"] - row["y1"])) <= 1


def untrained(path: Path, classes: int, names: str | None = None) -> str:
    """A checkpoint of a detector with random weights, by default of the test's class names."""
    torch.manual_seed(0)
    model = build_detector("centernet_resnet18", classes, 3, (0.5,) * 3, (0.25,) * 3)
    settings = {
        "competition": "cytologia", "classes": CLASSES if names is None else names, "arch": "centernet_resnet18",
        "num_classes": classes, "in_channels": 3, "img_size": 96,
    }  # fmt: skip
    torch.save({"model": model.state_dict(), "settings": settings, "epoch": 1}, path)
    return str(path)


def test_only_detectors_of_the_same_classes_say_which(data, tmp_path, capsys):
    one, three = (untrained(tmp_path / f"{classes}.pth", classes) for classes in (1, 3))
    more = ("--score_threshold", "0", "--max_cells", "5", "--overwrite")
    others = untrained(tmp_path / "others.pth", 3, "Red,White,Green")
    moved = untrained(tmp_path / "moved.pth", 3, "classes_moved.txt")  # then their number must do
    four = untrained(tmp_path / "four.pth", 4, "Red,White,Blue,Green")
    ends = ((one, False), (three, True), (f"{one},{one}", False), (others, False), (moved, True), (four, False))
    for weights, named in ends:
        assert segment.main(segment_flags(data, tmp_path, "--weights", weights, *more)) is None
        labels = pd.read_csv(tmp_path / "meta_dir" / "train_cell.csv")["Label"]
        assert len(labels) == 40 and (labels.isin([0, 1, 2]) if named else labels.isna()).all()
        said = "do not tell the classes of cytologia apart: which one a cell has is left open"
        assert (said in capsys.readouterr().out) == (not named)
    with pytest.raises(UserError, match="networks of different --num_classes or --depths cannot be averaged or fused"):
        segment.main(segment_flags(data, tmp_path, "--weights", f"{one},{three}", *more))


def test_a_finder_by_the_name_of_its_network(data, tmp_path):
    weights = untrained(tmp_path / "one.pth", 1)
    flags = segment_flags(data, tmp_path, "--weights", weights, "--score_threshold", "0")
    assert segment.main([*flags, "--finder", "centernet"]) is None
    with pytest.raises(UserError, match="--finder maskrcnn: .*one.pth is a centernet_resnet18; network takes any"):
        segment.main([*flags, "--finder", "maskrcnn"])
    with pytest.raises(UserError, match="--finder unet needs --weights"):
        segment.main(segment_flags(data, tmp_path, "--finder", "unet"))


@pytest.mark.slow
def test_a_yolox_starts_from_its_coco_weights(data, tmp_path, capsys):
    """Megvii's file, of 80 classes, through train.py: of one class only the class layers begin anew."""
    config = pytest.importorskip("yolox.config", reason="pixeltable-yolox is not installed").YoloxConfig
    donor = config.get_named_config("yolox_nano").get_model().state_dict()
    torch.save({"model": donor}, tmp_path / "yolox_nano.pth")
    more = ["--arch", "yolox_nano", "--pretrained", str(tmp_path / "yolox_nano.pth"), "--optimizer", "SGD"]
    still = ["--lr", "1e-12", "--weight_decay", "0", "--ema", "0", "--epochs", "2", "--augment", "yolox"]
    train.main(train_flags(data, "--out_dir", "Yolox", "--mosaic_epochs", "1", *more, *still))
    assert "layers with a random start: head.cls_preds.0.weight" in capsys.readouterr().out
    folder = data / "results/models/Yolox/fold0"
    assert pd.read_csv(folder / "log.csv")["train_l1"].notna().tolist() == [False, True]  # mosaics end after the first
    own = torch.load(folder / "best.pth", weights_only=True)["model"]
    for name, value in donor.items():
        if "cls_preds" in name:
            assert len(own[name]) == 1
        elif "running" not in name and "num_batches" not in name:
            torch.testing.assert_close(own[name], value, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_cells_are_named_by_their_own_labels(data, tmp_path, capsys):
    """From the marked cells through every script to the score, with classes of the user's own."""
    assert segment.main(segment_flags(data, tmp_path, "--finder", "truth")) is None
    cells = pd.read_csv(tmp_path / "meta_dir" / "train_cell.csv")
    truth = pd.read_csv(data / "train.csv")
    assert len(cells) == len(truth) and (cells["keep"] == 1).all() and (cells["score"] == 1).all()
    assert [CLASSES.split(",")[label] for label in cells["Label"]] == truth["class"].tolist()
    makefolds.main(
        [*common(data), "--metadata", str(data / "train.csv"), *split(data), "--holdout", "3",
         "--cell_metadata", str(tmp_path / "meta_dir" / "train_cell.csv")]
    )  # fmt: skip
    train.main(
        [*common(data), *split(data), "--out_dir", "Classes", "--result_dir", str(tmp_path), "--cell", "cell",
         "--arch", "test_resnet", "--img_path", str(tmp_path / "crop_dir"), "--img_size", "32", "--crop_size", "32",
         "--batch_size", "4", "--epochs", "2", "--lr", "0.003", "--gpu_id", "cpu", "--mixup", "0", "--cutmix", "0",
         "--loss", "WeightedCrossEntropy", "--label_smoothing", "0.1", "--sample", "-1"]
    )  # fmt: skip
    log = pd.read_csv(tmp_path / "models" / "Classes" / "fold0" / "log.csv")
    assert {"macro_f1", "accuracy", "AP Red"} <= set(log)
    cells_table = str(tmp_path / "meta_dir" / "train_cell.csv")
    predict.main(
        [*common(data), "--base_dir", str(tmp_path), "--out_dir", "Classes", "--cellorimage", "cell", "--gpu_id", "cpu",
         "--dataset", "train", "--img_dir", str(tmp_path / "crop_dir"), "--augment", "default,fliplr"]
    )  # fmt: skip
    convertpredictions.main(
        [*common(data), "--dataset", "train", "--augment", "default,fliplr", "--model", "Classes", "--epoch", "best",
         "--cellorimage", "cell", "--seeds", "0", "--predictions_path", str(tmp_path / "submissions"),
         "--meta_csv_path", str(data / "train.csv"), "--cell_meta_csv_path", cells_table, "--out_path", str(tmp_path)]
    )  # fmt: skip
    probabilities = tmp_path / "probabilities_Classes_best.csv"
    evaluate.main(
        [*common(data), "--truth", str(data / "train.csv"), "--cell_meta_csv_path", cells_table,
         "--probabilities", str(probabilities)]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert f"classes of the {len(truth)} of {len(truth)} true cells that are found" in printed
    assert "any class AP50: 1.0000" in printed
    (tmp_path / "config.csv").write_text("Predictions,Type,Red,White,Blue\nprobabilities_Classes_best.csv,cell,1,1,1\n")
    counts = pd.DataFrame({"trustii_id": range(len(truth)), "NAME": truth["NAME"]})
    counts.to_csv(tmp_path / "test.csv", index=False)
    ensemble.main(
        [str(tmp_path / "config.csv"), *common(data), "--submission", "1", "--meta_csv", str(tmp_path / "test.csv"),
         "--cell_meta_csv_path", cells_table, "--out_path", str(tmp_path)]
    )  # fmt: skip
    submission = pd.read_csv(tmp_path / "submission_config.csv")
    assert submission["NAME"].tolist() == truth["NAME"].tolist()
    assert (submission[["x1", "y1", "x2", "y2"]].sum() == truth[["x1", "y1", "x2", "y2"]].sum()).all()


@pytest.mark.parametrize(("of", "used"), [("riva", "cytologia"), ("cytologia", "riva")])
def test_a_network_of_another_competition_keeps_the_size_of_its_boxes(of, used, tmp_path):
    trained, finder = competitions.get(of), competitions.get(used)
    options = detector_options(ARCH, 512, trained)
    model = build_detector(ARCH, 1, 3, trained.MEAN, trained.STD, **options)
    settings = {"competition": of, "arch": ARCH, "num_classes": 1, "in_channels": 3, "img_size": 512}
    torch.save({"model": model.state_dict(), "settings": settings, "epoch": 1}, tmp_path / "1.pth")
    opened, _ = network_finder.open_network(tmp_path / "1.pth", finder, 10, make_fabric("cpu", False))
    assert opened.module.box_size == (50 if of == "riva" else None)
    assert torch.equal(opened.module.mean, model.mean)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num_classes", "2"], "--num_classes 2: cytologia has 3 classes"),
        (["--augment", "stained_crop"], "--augment stained_crop is not known; choose from: riva"),
        (["--arch", "centernet_vit_tiny_patch16_224"], "--arch: vit_tiny_patch16_224 cannot be a CenterNet's backbone"),
        (["--arch", "yolox_huge"], "yolox_huge is not known"),
        (["--root_dir", "none"], "--root_dir does not exist: none"),
        (["--pseudo_labels", "x.csv"], f"--pseudo_labels: for classifiers, not for --arch {ARCH}"),
        (["--loss", "Focal"], f"--loss: for classifiers and networks of class maps, not for --arch {ARCH}"),
        (["--img_path", "x", "--cell", "cell"], f"--img_path, --cell: for classifiers, not for --arch {ARCH}"),
        (["--checkpointing", "1"], f"--checkpointing: for networks of class maps, not for --arch {ARCH}"),
        (["--pool", "max", "--puzzle", "1"], f"--pool, --puzzle: for classifiers, not for --arch {ARCH}"),
        (["--scheduler", "cosine", "--lr", "0"], "--lr 0.0 must be above 0"),
        (["--sample", "8", "--mixup", "0.4"], "--sample, --mixup: for classifiers and networks of class maps"),
        (["--img_size", "100"], f"--img_size 100 must be a multiple of 32 for --arch {ARCH}"),
        (["--drop_rate", "0.5"], f"--drop_rate: for classifiers, not for --arch {ARCH}"),
        (["--arch", "maskrcnn_resnet18", "--mosaic_epochs", "1", "--augment", "none"], "mosaics have no masks"),
        (["--preload", "bestfitting", "--resume", "x.pth"], "--preload bestfitting is for classifiers"),
    ],
)
def test_bad_training_flags(data, flags, message):
    with pytest.raises(UserError, match=message):
        train.main(train_flags(data, "--out_dir", "bad", *flags))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--finder must be given for cytologia: otsu, texture, truth, or --weights"),
        (["--finder", "watershed"], "--finder watershed is for the channels of hpa"),
        (["--finder", "network"], "--finder network needs --weights"),
        (["--finder", "truth", "--weights", "x.pth"], "--finder truth does not use --weights, it belongs to network"),
        (["--weights", "none.pth"], "--weights does not exist: none.pth"),
        (["--truth", "none.csv"], "does not exist: none.csv"),
        (["--finder", "truth", "--max_cells", "-1"], "--finder truth does not use --max_cells, it belongs to network"),
        (["--finder", "otsu", "--zooms", "0.8,1"], "--finder otsu does not use --zooms, it belongs to network"),
        (["--finder", "otsu", "--label_scale", "0.5"], "does not use --label_scale, it belongs to hpacellseg"),
    ],
)
def test_bad_finder_flags(data, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        segment.main(segment_flags(data, tmp_path, *flags))


@pytest.mark.parametrize("arch", ["maskrcnn_resnet18", "unet_resnet18"])
def test_a_table_without_any_cell(tmp_path, arch):
    folder = make_small_blobs(tmp_path, images=4)
    table = pd.read_csv(folder / "train.csv").drop_duplicates("id").assign(annotation="")
    table.to_csv(folder / "train.csv", index=False)
    flags = ["--competition", "neurons", "--classes", "cell", "--metadata", str(folder / "train.csv"), *split(folder)]
    makefolds.main([*flags, "--n_folds", "2"])
    flags += ["--root_dir", str(folder / "images"), "--out_dir", "None", "--arch", arch, "--gpu_id", "cpu"]
    with pytest.raises(UserError, match="--metadata .*has no (labelled )?cell"):
        train.main(flags)


@pytest.mark.parametrize("arch", [ARCH, "unet_light_test_resnet"])
def test_a_table_of_other_images(tmp_path, arch):
    folder = make_small_blobs(tmp_path, images=4)
    flags = ["--competition", "neurons", "--classes", BLOBS, *split(folder)]
    makefolds.main([*flags, "--metadata", str(folder / "train.csv"), "--n_folds", "2"])
    table = pd.read_csv(folder / "train.csv", dtype={"id": str})
    fold = pd.read_csv(folder / "folds" / "held" / "images.csv", dtype={"ID": str}).set_index("ID")["Fold"]
    table[table["id"].map(fold) == 0].to_csv(folder / "half.csv", index=False)
    for name in table.loc[table["id"].map(fold) == 1, "id"].unique():  # known, but without cells
        row = table[table["id"] == name].head(1).assign(annotation="")
        row.to_csv(folder / "half.csv", index=False, header=False, mode="a")
    flags += ["--metadata", str(folder / "half.csv"), "--root_dir", str(folder / "images"), "--out_dir", "None"]
    with pytest.raises(UserError, match="half.csv has no cell of the 2 training images of held: "):
        train.main([*flags, "--arch", arch, "--gpu_id", "cpu"])
    images = pd.read_csv(folder / "folds" / "held" / "images.csv").assign(Fold=0)
    images.to_csv(folder / "folds" / "held" / "images.csv", index=False)
    with pytest.raises(UserError, match="--split_name held leaves no training image with --fold 0"):
        train.main([*flags, "--arch", arch, "--gpu_id", "cpu"])


class Blob(torch.nn.Module):
    """Finds the brightest pixel of the left half with a mask that fades to the right, on a box of 20 x 10 pixels."""

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        found = []
        for image in images:
            y, x = divmod(int(image[0].argmax()), image.shape[2])
            right = 1 if image[0, y, max(x - 3, 0)] < image[0, y, min(x + 3, image.shape[2] - 1)] else -1
            mask = torch.linspace(0.2, 1.0, 28)[None].expand(28, 28)
            found.append({
                "boxes": torch.tensor([[x - 10.0, y - 5.0, x + 10.0, y + 5.0]]), "scores": torch.tensor([0.9]),
                "labels": torch.zeros(1), "masks": (mask if right > 0 else mask.flip(1))[None],
            })  # fmt: skip
        return found


def test_masks_come_back_from_every_view_at_their_own_size(monkeypatch):
    """A peak with a glow to its right; half of the box is mask, on the side of the glow, in riva's images, too, whose
    boxes are all of one size.
    """
    learned = {"competition": "riva", "arch": "maskrcnn_resnet18", "num_classes": 1, "img_size": 64, "depths": 0}
    monkeypatch.setattr(network_finder, "open_network", lambda *given: (Blob(), learned))
    image = np.zeros((64, 64, 3), np.uint8)
    image[30, 40], image[30, 43] = 255, 90
    fusing = Fusing("wbf", 0.5, 10, 0.1, 0.5, 300)
    views = ["default", "fliplr", "flipud", "flipud_lr"]
    finder = network_finder.NetworkFinder(["a.pth"], competitions.get("riva"), views, fusing, make_fabric("cpu", False))
    found = finder.label(image, finder.predict([image])[0])
    assert found.scores == pytest.approx([0.9], abs=1e-3)
    rows, columns = np.nonzero(found.cells)
    assert rows.min() >= 24 and rows.max() <= 36 and columns.min() >= 36 and columns.max() <= 51
    with pytest.raises(UserError, match="--fuse nms is for boxes; masks and class maps are averaged: wbf is right"):
        network_finder.NetworkFinder(
            ["a.pth"], competitions.get("riva"), views, fusing._replace(how="nms"), make_fabric("cpu", False)
        )


def test_a_find_beyond_the_image_is_no_cell(monkeypatch):
    """An image of 368 x 370 pixels on a canvas of 384: a box in what is filled up takes no place of --max_cells."""
    learned = {"competition": "cytologia", "arch": "yolox_nano", "num_classes": 23, "img_size": 384, "depths": 0}
    monkeypatch.setattr(network_finder, "open_network", lambda *given: (None, learned))
    competition, fusing = competitions.get("cytologia"), Fusing("wbf", 0.5, 10, 0.1, 0.5, 1)
    finder = network_finder.NetworkFinder(["a.pth"], competition, ["default"], fusing, make_fabric("cpu", False))
    boxes = np.array([[372.0, 10, 379, 40], [300, 300, 375, 360]])
    found = finder._fused([{"boxes": boxes, "scores": np.array([0.9, 0.5]), "labels": np.zeros(2)}], (368, 370))
    assert found.boxes.tolist() == [[300, 300, 370, 360]] and found.scores.tolist() == [0.5]


def test_a_gpu_too_small_for_an_image(monkeypatch):
    def full(*given):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    learned = {"competition": "cytologia", "arch": "yolox_nano", "num_classes": 23, "img_size": 384}
    monkeypatch.setattr(network_finder, "open_network", lambda *given: (full, learned))
    fusing = Fusing("wbf", 0.5, 10, 0.1, 0.5, 1)
    finder = network_finder.NetworkFinder(
        ["a.pth"], competitions.get("cytologia"), ["default"], fusing, make_fabric("cpu", False)
    )
    with pytest.raises(UserError, match="the GPU's memory does not suffice: a --tile, or a smaller one, needs less"):
        finder.predict([np.zeros((40, 50, 3), np.uint8)])


def test_one_row_that_changes_cuts_one_image(data, tmp_path):
    """The finder truth does no other image again."""
    segment.main(segment_flags(data, tmp_path, "--finder", "truth"))
    rows = tmp_path / "cache_dir" / "train"
    before = {path: path.stat().st_mtime_ns for path in rows.glob("*.csv")}
    table = pd.read_csv(data / "train.csv", keep_default_na=False)
    table.drop(index=len(table) - 1).to_csv(tmp_path / "cleaner.csv", index=False)
    own = ["--metadata", str(tmp_path / "cleaner.csv"), "--dataset", "train"]
    segment.main([*segment_flags(data, tmp_path, "--finder", "truth"), *own])
    anew = [path.stem for path, when in before.items() if path.stat().st_mtime_ns != when]
    assert anew == [table["NAME"].iloc[-1]]


def test_boxes_of_views_by_hand():
    """A box at the upper left of an image 20 high and 30 wide, as it looks in each view."""
    box = np.array([[1.0, 2.0, 4.0, 8.0]])
    seen = {
        "default": [1, 2, 4, 8], "fliplr": [26, 2, 29, 8], "flipud": [1, 12, 4, 18], "transpose": [2, 1, 8, 4],
        "flipud_transpose": [12, 1, 18, 4], "flipud_lr": [26, 12, 29, 18], "fliplr_transpose": [2, 26, 8, 29],
        "flipud_lr_transpose": [12, 26, 18, 29],
    }  # fmt: skip
    for view, expected in seen.items():
        np.testing.assert_allclose(undo_boxes(np.array([expected], float), view, (20, 30)), box)


def test_two_networks_agree():
    """Two boxes of one cell become one, a box that one network alone sees counts half; classes stay apart."""
    one = {"boxes": np.array([[0.0, 0, 10, 10]]), "scores": np.array([0.8]), "labels": np.array([0.0])}
    two = {
        "boxes": np.array([[0.0, 0, 10, 12], [50, 50, 60, 60], [0, 0, 10, 10]]),
        "scores": np.array([0.8, 0.6, 0.5]), "labels": np.array([0.0, 0, 1]),
    }  # fmt: skip
    boxes, scores, labels = fuse_finds([one, two], Fusing("wbf", 0.5, 12, 0.0, 0.5, 10))
    assert labels.tolist() == [0, 0, 1]
    np.testing.assert_allclose(boxes[0], [0, 0, 10, 11])
    np.testing.assert_allclose(scores, [0.8, 0.3, 0.25])
    boxes, scores, labels = fuse_finds([one, two], Fusing("nms", 0.5, 12, 0.0, 0.5, 10))
    assert len(boxes) == 3 and scores.max() == 0.8


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["--competition", "hpa"], (0.05, 0.5, 0.55)),
        (["--competition", "riva"], (0.01, 0.5, 0.55)),
        (["--competition", "cytologia", "--nms_iou", "0.6"], (0.001, 0.6, 0.25)),
        (["--competition", "cytologia", "--classes", "Red,White"], (0.05, 0.5, 0.55)),
    ],
)
def test_thresholds_are_the_published_ones_of_the_competitions_own_classes(given, expected):
    folders = [text for name in ("metadata", "root_dir", "meta_dir", "crop_dir", "img_dir", "cache_dir")
               for text in (f"--{name}", "x")]  # fmt: skip
    args = segment.get_args_parser().parse_args([*folders, *given])
    resolve(args, segment.finding_defaults(args))
    assert (args.score_threshold, args.nms_iou, args.fuse_iou) == expected
