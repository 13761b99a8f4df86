"""Networks of masks and of class maps through the scripts: folds, training, going on, cells found; bad input."""

from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from small_blobs import CLASSES, make_small_blobs

import competitions
import evaluate
import makefolds
import segment
import submit
import synthesize
import tasks.segment
import train
from augment.maps import MAPS
from cells import network_finder
from cells.finders import parse_zooms
from cells.pieces import batches
from cells.regions import label_areas
from common.errors import UserError
from common.seeds import rng
from competitions import neurons
from engine.train import Progress
from metrics.dice import dice
from tasks.segment import judge, map_weights, validate


@pytest.fixture(autouse=True)
def _few_cells(monkeypatch):
    """An untrained network finds as many cells as it may."""
    monkeypatch.setattr(neurons, "MAX_DETECTIONS", 20)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = make_small_blobs(tmp_path_factory.mktemp("blobs"))
    makefolds.main([*common(), "--metadata", str(folder / "train.csv"), *split(folder), "--holdout", "3"])
    return folder


def common() -> list[str]:
    return ["--competition", "neurons", "--classes", CLASSES]


def split(folder: Path) -> list[str]:
    return ["--folds_dir", str(folder / "folds"), "--split_name", "held"]


def train_flags(folder: Path, arch: str, *more: str) -> list[str]:
    return [
        *common(), *split(folder), "--out_dir", arch, "--result_dir", str(folder / "results"), "--arch", arch,
        "--metadata", str(folder / "train.csv"), "--root_dir", str(folder / "images"), "--img_size", "96",
        "--batch_size", "2", "--effective_batch", "2", "--epochs", "2", "--optimizer", "AdamW",
        "--scheduler", "constant", "--lr", "0.001", "--gpu_id", "cpu", *more,
    ]  # fmt: skip


def segment_flags(folder: Path, out: Path, *more: str) -> list[str]:
    flags = [*common(), "--metadata", str(folder / "train.csv"), "--root_dir", str(folder / "images")]
    for name in ("meta_dir", "crop_dir", "img_dir", "cache_dir"):
        flags += [f"--{name}", str(out / name)]
    return [*flags, "--img_size", "64", "--workers", "0", "--gpu_id", "cpu", *more]


def run_folder(folder: Path, arch: str) -> Path:
    return folder / "results" / "models" / arch / "fold0"


def one_hot(classes: np.ndarray, count: int) -> torch.Tensor:
    """Class maps (count, H, W) that are sure of each pixel's class."""
    return torch.from_numpy((np.arange(count)[:, None, None] == classes).astype(np.float32))


@pytest.mark.parametrize("deep", [False, True])
def test_validation_by_hand(deep):
    """Two cells of 12 x 12 pixels of classes 0 and 1; the second found as it is, or 3 pixels beside, an IoU of .6."""
    truth = np.zeros((32, 32, 2), np.int64)
    truth[2:14, 2:14, 0] = truth[18:30, 15:27, 1] = 1
    for shift, quality in ((0, 1.0), (3, 9 / 15)):
        seen = np.full((32, 32), 3 if deep else 2)  # the background
        for cell, (top, left) in enumerate([(2, 2), (18, 15 + shift)]):
            seen[top : top + 12, left : left + 12] = 2 if deep else cell  # a rim of one pixel
            seen[top + 1 : top + 11, left + 1 : left + 11] = cell
        pq, pixels = judge(one_hot(seen, 4 if deep else 3), truth, deep)
        np.testing.assert_allclose(pq, [(1 + quality) / 2, 1, quality])
        np.testing.assert_allclose(dice(pixels)[:2], [1, (12 - shift) / 12])


def test_validation_looks_at_the_image_on_its_canvas():
    """An image of 16 x 32 on a canvas of 64 x 64: what lies below it is not asked for."""
    truth = np.zeros((16, 32, 1), np.int64)
    truth[4:12, 8:24, 0] = 1
    seen = np.ones((64, 64), np.int64)
    seen[8:24, 16:48] = seen[40:, :] = 0
    assert judge(one_hot(seen, 2), truth, False)[0].tolist() == [1, 1]


def test_weights_of_classes_and_background():
    weights = map_weights(SimpleNamespace(pixels=lambda: np.array([400, 2500, 7100])))
    np.testing.assert_allclose(weights[0] / weights[1], 2.5)
    assert weights.mean() == pytest.approx(1)


@pytest.mark.slow
def test_mask_rcnn_is_trained_and_finds_cells(data, tmp_path):
    arch = "maskrcnn_light_resnet18"
    train.main(train_flags(data, arch, "--augment", "neurons"))
    log = pd.read_csv(run_folder(data, arch) / "log.csv")
    assert {"mAP", "AP50", "score_threshold", "train_mask", "train_objectness"} <= set(log) and len(log) == 2
    content = torch.load(run_folder(data, arch) / "best.pth", weights_only=True)
    (bias,) = (name for name in content["model"] if name.endswith("cls_score.bias"))
    content["model"][bias][0] -= 3  # so little trained, it would take all for background
    weights = str(tmp_path / "eager.pth")
    torch.save(content, weights)
    flags = segment_flags(data, tmp_path, "--weights", f"{weights},{weights}", "--augment", "default,transpose")
    assert segment.main([*flags, "--score_threshold", "0.01", "--tile", "64", "--max_cells", "9"]) is None
    cells = pd.read_csv(tmp_path / "meta_dir" / "train_cell.csv")
    assert len(cells) and cells["score"].between(0, 1).all() and set(cells["Label"]) == {0}
    assert cells["PredictionString"].str.len().gt(0).all()


@pytest.mark.slow
def test_unet_is_trained_goes_on_and_finds_cells(data, tmp_path, monkeypatch):
    arch = "unet_resnet18"
    own = ["--augment", "pannuke_at_once", "--progressive", "64", "--mixup", "0.4", "--ema", "0.5", "--swa_start", "2"]
    flags = train_flags(data, arch, *own, "--epochs", "3")
    train.main(flags)
    folder = run_folder(data, arch)
    log = pd.read_csv(folder / "log.csv")
    assert {"mPQ", "bPQ", "Dice", "weighted_dice", "train_dice", "train_focal", "train_boundary"} <= set(log)
    again, calls = [*flags, "--result_dir", str(tmp_path)], []

    def killed(*given, **named):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return validate(*given, **named)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(tasks.segment, "validate", killed)
        train.main(again)
    train.main(again)
    for name in ("003", "swa"):
        first, second = (
            torch.load(one / f"{name}.pth", weights_only=True)["model"]
            for one in (folder, tmp_path / "models" / arch / "fold0")
        )
        assert all(torch.equal(first[key], second[key]) for key in first)
    weights = f"{folder / 'best.pth'},{folder / 'swa.pth'}"
    assert segment.main(segment_flags(data, tmp_path, "--weights", weights, "--augment", "default,fliplr")) is None
    cells = pd.read_csv(tmp_path / "meta_dir" / "train_cell.csv")
    assert {"score", "PredictionString", "Label"} <= set(cells)


@pytest.mark.slow
def test_unet_of_depths_in_windows(data, tmp_path):
    arch = "unet_light_resnet18"
    own = ["--augment", "nuclei", "--depths", "1", "--tile", "48", "--img_size", "64", "--num_classes", "1"]
    own += ["--stretch", "1", "--freeze_norms", "1", "--diameter", "20", "--swa_start", "2"]
    with pytest.raises(UserError, match="unet_resnet18 has 21 batch norms outside of its backbone"):
        train.main([*train_flags(data, "unet_resnet18", *own, "--loss", "CrossEntropy"), "--result_dir", str(tmp_path)])
    train.main(train_flags(data, arch, *own, "--sample", "-1", "--loss", "CrossEntropy", "--mixup", "0.4"))
    log = pd.read_csv(run_folder(data, arch) / "log.csv")
    assert {"bPQ", "weighted_dice"} <= set(log)
    for weights in (run_folder(data, arch) / "best.pth", run_folder(data, arch) / "swa.pth"):
        state = torch.load(weights, weights_only=True)["model"]
        assert all((value == 0).all() for name, value in state.items() if name.endswith("running_mean"))  # as it began
    weights = str(weights)
    assert segment.main(segment_flags(data, tmp_path, "--weights", weights, "--tile", "48")) is None
    cells = pd.read_csv(tmp_path / "meta_dir" / "train_cell.csv")
    assert "score" in cells
    state = torch.load(weights, weights_only=True)
    state["settings"]["depths"] = 0
    state["model"] = {name: value[:2] if "head.3" in name else value for name, value in state["model"].items()}
    torch.save(state, tmp_path / "plain.pth")
    with pytest.raises(UserError, match="--depths cannot be averaged"):
        segment.main(segment_flags(data, tmp_path, "--weights", f"{weights},{tmp_path / 'plain.pth'}"))


class Bright(torch.nn.Module):
    """Says of bright pixels that they are cells; keeps the shapes that it saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        self.seen.append(tuple(images.shape[2:]))
        cell = (images[:, :1].float() > 100).float()
        return {"map": torch.cat([cell, 1 - cell], 1)}


def test_finder_looks_at_the_size_of_the_cells(monkeypatch):
    """Discs of 40 pixels, of 16 where the network learned: an image of 200 pixels is seen at 80 in the end."""
    model = Bright()
    learned = {
        "competition": "neurons", "arch": "unet_resnet18", "num_classes": 1, "img_size": 64, "diameter": 16.0,
        "depths": 0,
    }  # fmt: skip
    monkeypatch.setattr(network_finder, "open_network", lambda *given: (model, learned))
    fusing = network_finder.Fusing("wbf", 0.5, 10, 0.1, 0.5, 300)
    image = np.zeros((200, 200, 3), np.uint8)
    for x in (40, 100, 160):
        cv2.circle(image, (x, 60), 20, (200, 200, 200), -1)
    fabric = Fabric(accelerator="cpu")
    finder = network_finder.NetworkFinder(
        ["a.pth"], competitions.get("neurons", "cell"), ["default", "fliplr"], fusing, fabric, tile=100
    )
    maps = finder.predict([image])[0]
    assert model.seen[-2:] == [(64, 64), (64, 64)] and len(model.seen) == 9 + 4 + 2 * 4
    found = network_finder.found_in_maps(maps)
    areas = label_areas(found.cells)[1:]
    assert len(areas) == 3 and abs(areas / (np.pi * 20**2) - 1).max() < 0.08
    model.seen.clear()
    assert finder.predict([np.zeros((200, 200, 3), np.uint8)])[0].shape == (2, 200, 200)  # no cell: as at first
    assert len(model.seen) == 9 + 2 * 9


class Framing(torch.nn.Module):
    """Finds the box around all bright pixels of an image; keeps the shapes that it saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, images: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        self.seen.append(tuple(images.shape[2:]))
        found = []
        for image in images:
            rows, columns = torch.nonzero(image[0] > 150, as_tuple=True)
            box = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1] if len(rows) else [0, 0, 0, 0]
            boxes = torch.tensor([box], dtype=torch.float32)
            found.append({"boxes": boxes, "scores": torch.tensor([0.8]), "labels": torch.zeros(1)})
        return found


@pytest.mark.parametrize("arch, model", [("unet_resnet18", Bright()), ("centernet_resnet18", Framing())])
def test_finder_looks_at_several_zooms(monkeypatch, arch, model):
    learned = {"competition": "neurons", "arch": arch, "num_classes": 1, "img_size": 64, "depths": 0}
    monkeypatch.setattr(network_finder, "open_network", lambda *given: (model, learned))
    fusing, fabric = network_finder.Fusing("wbf", 0.5, 10, 0.1, 0.5, 300), Fabric(accelerator="cpu")
    image = np.zeros((128, 96, 3), np.uint8)
    image[16:48, 8:40] = 200
    competition = competitions.get("neurons", "cell")
    views = ["default", "flipud"]
    finder = network_finder.NetworkFinder(["a.pth"], competition, views, fusing, fabric, zooms=(1, 2, 0.5))
    seen = finder.predict([image])[0]
    tiles = len(model.seen) - 4  # of 64 pixels
    assert tiles >= 2 * 4 and model.seen == [(64, 64)] * (2 + tiles) + [(32, 32)] * 2
    if arch.startswith("unet"):
        assert seen.shape == (2, 128, 96)
        found = network_finder.found_in_maps(seen).cells
        assert found[16:48, 8:40].all() and found.astype(bool).sum() <= 36 * 36
    else:
        np.testing.assert_allclose(seen.boxes[0], [8, 16, 40, 48], atol=2.5)
        assert seen.scores[0] == pytest.approx(0.8)


@pytest.mark.parametrize("text", ["0", "1,1", "big", "1,,2", "-1", "17"])
def test_zooms_that_are_none(text):
    with pytest.raises(UserError, match=f"--zooms {text} must be different numbers from 0.0625 to 16"):
        parse_zooms(text)


def test_unsure_cells_of_class_maps_are_left_out():
    inside = np.zeros((12, 40), np.float32)
    for left, sure in ((2, 0.9), (14, 0.6), (26, 0.8)):
        inside[2:10, left : left + 8] = sure
    for maps in (np.stack([inside, 1 - inside]), np.stack([inside, 0 * inside, 1 - inside])):
        found = network_finder.found_in_maps(maps, depths=len(maps) == 3, threshold=0.7)
        np.testing.assert_allclose(found.scores, [0.9, 0.8], rtol=1e-6)
        assert found.labels.tolist() == [0, 0] and set(np.unique(found.cells)) == {0, 1, 2}
        assert (found.cells[2:10, 2:10] == 1).all() and (found.cells[2:10, 26:34] == 2).all()
        assert not found.cells[:, 11:25].any()


@pytest.mark.slow
def test_hpa_cells_are_learned_from_masks(tmp_path, data):
    made, flags = tmp_path / "made", ["--competition", "hpa", *split(tmp_path)]
    synthesize.main(["--competition", "hpa", "--out_dir", str(made), "--train", "6", "--test", "1", "--size", "192",
                     "--cells", "2-3", "--jobs", "1"])  # fmt: skip
    makefolds.main([*flags, "--metadata", str(made / "train.csv"), "--n_folds", "3"])
    learn = [*flags, "--metadata", str(made / "train_truth.csv"), "--root_dir", str(made / "train"), "--gpu_id", "cpu",
             "--result_dir", str(tmp_path), "--img_size", "64", "--epochs", "1"]  # fmt: skip
    maps = ["--out_dir", "Cells", "--arch", "unet_light_resnet18", "--tile", "96", "--depths", "1", "--augment",
            "nuclei", "--loss", "DiceCrossEntropy", "--scheduler", "cosine"]  # fmt: skip
    with pytest.raises(UserError, match="--num_classes 19: hpa does not tell cells apart; 1 is right"):
        train.main([*learn, *maps])
    train.main([*learn, *maps, "--num_classes", "1"])
    train.main([*learn, "--out_dir", "Boxes", "--arch", "maskrcnn_light_resnet18", "--num_classes", "1"])
    assert np.isfinite(pd.read_csv(tmp_path / "models" / "Boxes" / "fold0" / "log.csv")["train_mask"]).all()
    weights = tmp_path / "models" / "Cells" / "fold0" / "best.pth"
    own = train_flags(data, "unet_light_resnet18", "--epochs", "1", "--result_dir", str(tmp_path), "--num_classes", "1")
    train.main(own)
    nuclei = tmp_path / "models" / "unet_light_resnet18" / "fold0" / "best.pth"  # sees red, green and blue
    finders = (
        ("network", ["--weights", str(weights)]), ("maps", ["--weights", str(nuclei)]),
        ("truth", ["--truth", str(made / "truth.csv")]),
    )  # fmt: skip
    with pytest.raises(UserError, match="best.pth was trained on red, green, blue, yellow; images of neurons"):
        segment.main(segment_flags(data, tmp_path / "other", "--weights", str(weights)))
    for name, more in finders:
        finder = "network" if "--weights" in more else name
        found = segment.main([
            *segment_flags(made, tmp_path / name)[4:], "--competition", "hpa", "--finder", finder, *more,
            "--metadata", str(made / "sample_submission.csv"), "--root_dir", str(made / "test"), "--edge_rule", "none",
        ])  # fmt: skip
        assert found is None
    truth = pd.read_csv(made / "truth.csv")
    found = pd.read_csv(tmp_path / "truth" / "meta_dir" / "sample_submission_cell.csv")
    assert found["PredictionString"].tolist() == truth["PredictionString"].tolist()


@pytest.mark.parametrize("finder", ["otsu", "texture"])
def test_baselines_find_submit_and_score(finder, data, tmp_path, capsys):
    assert segment.main(segment_flags(data, tmp_path, "--finder", finder, "--edge_rule", "none")) is None
    metadata, cells = str(data / "train.csv"), str(tmp_path / "meta_dir" / "train_cell.csv")
    flags = ["--metadata", metadata, "--cell_meta_csv_path", cells, "--out_path", str(tmp_path / "submission.csv")]
    submit.main([*common(), *flags])
    assert "in 6 images" in capsys.readouterr().out
    evaluate.main([*common(), "--truth", metadata, "--submission", str(tmp_path / "submission.csv")])
    score = pd.read_csv(tmp_path / "score_submission.csv")
    assert score["Detections"].iloc[-1] == 18 and (finder == "texture" or score["AP"].iloc[-1] > 0.95)
    evaluate.main([*common(), "--root_dir", str(data / "images"), "--submission", str(tmp_path / "submission.csv")])
    assert "is right in form: 18 cells" in capsys.readouterr().out
    with pytest.raises(UserError, match="--truth is missing"):
        evaluate.main(["--competition", "hpa", "--submission", str(tmp_path / "submission.csv")])
    with pytest.raises(UserError, match="the Label '' of .*, cell 1, must be a class 0 to 2"):
        submit.main(["--competition", "neurons", *flags])
    pd.read_csv(cells).replace({"ImageID": {3: 9}}).to_csv(cells, index=False)
    with pytest.raises(UserError, match="has the image 9, which"):
        submit.main([*common(), *flags])


def make_small_pannuke(folder: Path) -> Path:
    """Two folds of three images of 64 x 64 pixels with two nuclei each, and a split by fold."""
    for fold in (1, 2):
        masks, images = np.zeros((3, 64, 64, 6)), np.full((3, 64, 64, 3), 220.0)
        for number in range(3):
            for kind, place in ((0, 8), (2 + number, 38)):
                masks[number, place : place + 16, 20:40, kind] = kind + 1
                images[number, place : place + 16, 20:40] = (120, 60, 20 * kind)
        masks[..., 5] = ~masks[..., :5].any(-1)
        (folder / f"fold{fold}").mkdir(parents=True)
        for name, array in (("images", images), ("masks", masks), ("types", np.array(["Breast"] * 3))):
            np.save(folder / f"fold{fold}" / f"{name}.npy", array)
    (folder / "folds" / "official").mkdir(parents=True)
    rows = [(f"fold{1 + fold}_{number:05}", "0", fold) for fold in (0, 1) for number in range(3)]
    table = pd.DataFrame(rows, columns=["ID", "Label", "Fold"])
    table.to_csv(folder / "folds" / "official" / "images.csv", index=False)
    return folder


def test_the_published_pannuke_training_is_what_runs(tmp_path, monkeypatch):
    """The settings of X-SIGHT (system C), as the loop, the loss and the samples get them."""
    data, seen = make_small_pannuke(tmp_path / "data"), {}
    monkeypatch.setattr(train, "fit", lambda fabric, task, optimizer, plan, say: seen.update(vars()) or Progress())
    train.main([
        "--competition", "pannuke", "--metadata", str(data), "--root_dir", str(data), "--split_name", "official",
        "--folds_dir", str(data / "folds"), "--out_dir", "Maps", "--result_dir", str(tmp_path), "--gpu_id", "cpu",
    ])  # fmt: skip
    task, optimizer, plan = seen["task"], seen["optimizer"], seen["plan"]
    assert plan.settings["arch"] == "unet_resnet34"
    assert type(optimizer).__name__ == "AdamW" and max(g["weight_decay"] for g in optimizer.param_groups) == 1e-4
    assert (plan.epochs, plan.batch_size, plan.accumulate, plan.clip_norm) == (60, 16, 1, 1)
    assert (plan.ema, plan.swa_start, plan.patience, plan.skip_nonfinite) == (0.9999, 30, 15, 100)
    assert (plan.mix.alpha, plan.mix.share, plan.mix.classes) == (0.4, 0.3, 6)
    rates = [plan.rate(done, []) for done in (0, 18, 50)]  # a 25th, the top after 30 %, a tenth while SWA averages
    np.testing.assert_allclose(rates, (1.2e-5, 3e-4, 3e-5), rtol=1e-6)
    criterion = task.model.criterion
    assert criterion.parts == {"dice": 0.7, "focal": 0.2, "boundary": 0.1}
    np.testing.assert_allclose(criterion.class_weights, map_weights(task.train), rtol=1e-6)
    assert len(set(criterion.class_weights.tolist())) > 2
    assert [task.train.canvas(epoch) for epoch in (1, 22, 43, 60)] == [(128, 128), (192, 192), (256, 256), (256, 256)]
    assert task.train.change is MAPS["pannuke"] and not task.train.raw


@pytest.mark.parametrize("shape", [(64, 96), (60, 96), (96, 64)])
def test_training_and_finding_see_the_same_of_images_that_are_not_square(tmp_path, shape):
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    for name in ("a", "b"):
        image = rng(0, name).integers(0, 256, (*shape, 3)).astype(np.uint8)
        masks = np.zeros((*shape, 6), np.uint16)
        masks[9:30, 9:30, 0] = 1
        masks[..., 5] = 1 - masks[..., 0]
        cv2.imwrite(str(folder / "images" / f"{name}.png"), image)
        np.savez_compressed(folder / "masks" / f"{name}.npz", masks=masks)
    (tmp_path / "by").mkdir()
    pd.DataFrame({"ID": ["a", "b"], "Label": "0", "Fold": [0, 1]}).to_csv(tmp_path / "by" / "images.csv", index=False)
    args, competition = train.settled([
        "--competition", "pannuke", "--metadata", str(folder), "--root_dir", str(folder), "--split_name", "by",
        "--folds_dir", str(tmp_path), "--out_dir", "x", "--img_size", "96", "--progressive", "0", "--augment", "none",
    ])  # fmt: skip
    training, valid, _ = tasks.segment.samples(args, competition)
    for samples in (training, valid):
        image = competition.read_image(folder, samples.keys[0])
        _, seen = next(batches([image], vars(args), 0, torch.device("cpu")))
        assert torch.equal(samples[1, 0][0], seen[0])


@pytest.mark.slow
def test_pannuke_with_its_defaults(tmp_path, capsys):
    data = make_small_pannuke(tmp_path / "data")
    train.main([
        "--competition", "pannuke", "--metadata", str(data), "--root_dir", str(data), "--split_name", "official",
        "--folds_dir", str(data / "folds"), "--out_dir", "Maps", "--result_dir", str(tmp_path), "--epochs", "2",
        "--arch", "unet_resnet18", "--img_size", "64", "--progressive", "32", "--batch_size", "2", "--gpu_id", "cpu",
        "--effective_batch", "2", "--swa_start", "0",
    ])  # fmt: skip
    assert "weights of the classes and the background" in capsys.readouterr().out
    folder = tmp_path / "models" / "Maps" / "fold0"
    log = pd.read_csv(folder / "log.csv")
    assert {"PQ Neoplastic", "Dice Dead", "mPQ"} <= set(log) and len(log) == 2
    folders = ("meta_dir", "crop_dir", "img_dir", "cache_dir")
    flags = [text for name in folders for text in (f"--{name}", str(tmp_path / name))]
    assert segment.main([
        "--competition", "pannuke", "--metadata", str(data), "--root_dir", str(data), *flags, "--weights",
        str(folder / "best.pth"), "--workers", "0", "--gpu_id", "cpu", "--augment", "default,fliplr,flipud",
    ]) is None  # fmt: skip


def test_refusals(data, tmp_path):
    for wrong, message in (
        (["--loss", "BCE"], "--loss"),
        (["--augment", "neurons"], "--augment"),
        (["--tile", "-1"], "--tile -1 must be at least 0"),
        (["--arch", "maskrcnn_light_resnet18", "--depths", "1"], "--depths: for networks of class maps, not for"),
        (["--arch", "maskrcnn_light_resnet18", "--raw", "1"], "--raw: for networks of class maps, not for"),
        (["--cutmix", "1"], "--cutmix: for classifiers, not for --arch unet_resnet18"),
        (["--scheduler", "onecycle", "--warmup_epochs", "1"], "--warmup_epochs is for .* not onecycle"),
        (["--diameter", "30"], "--diameter does nothing without --tile"),
        (["--balance", "2"], "--balance does nothing without --sample"),
        (["--progressive", "128"], "--progressive 128 must be from 0 to --img_size 96"),
    ):
        with pytest.raises(UserError, match=message):
            train.main([*train_flags(data, "unet_resnet18"), "--result_dir", str(tmp_path), *wrong])
