"""train.py through its command line: what it writes, how it goes on, what it refuses."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lightning_fabric import Fabric
from small_data import make_small_data, train_flags

import engine.train
import train
from common.errors import UserError
from engine import checkpoints
from engine.device import Autocast
from models import build


@pytest.fixture
def data(tmp_path) -> Path:
    return make_small_data(tmp_path)


@pytest.fixture(scope="module")
def expected(tmp_path_factory) -> tuple[str, dict]:
    """The outcome of a run of two epochs that nothing disturbed."""
    data = make_small_data(tmp_path_factory.mktemp("undisturbed"))
    train.main(train_flags(data))
    return outcome(data)


def run_folder(data: Path) -> Path:
    return data / "results" / "models" / "run" / "fold0"


def outcome(data: Path) -> tuple[str, dict]:
    """What a finished run must agree on: its log, to the last digit, and its last weights."""
    folder = run_folder(data)
    return (folder / "log.csv").read_text(), checkpoints.read(folder / "002.pth", "test")["model"]


def assert_same(first, second) -> None:
    assert first[0] == second[0]
    assert all(torch.equal(first[1][name], second[1][name]) for name in first[1])


def test_a_run_and_its_files(data, capsys):
    train.main(train_flags(data))
    folder = run_folder(data)
    names = {path.name for path in folder.iterdir()} - {".lock"}
    assert names == {"001.pth", "002.pth", "best.pth", "last.pth", "settings.json", "log.csv", "curves.png"}
    log = pd.read_csv(folder / "log.csv")
    assert log["epoch"].tolist() == [1, 2] and log["train_loss"].iloc[1] < log["train_loss"].iloc[0]
    assert log[["valid_loss", "pr_auc", "AP 0:Nucleoplasm"]].notna().all().all()
    assert log["AP 1:Nuclear membrane"].isna().all()
    best = checkpoints.read(folder / "best.pth", "test")
    assert best["epoch"] == log["epoch"][log["pr_auc"].idxmax()] and best["settings"]["loss"] == "BCE"
    printed = capsys.readouterr().out
    assert "27 training and 9 validation cells" in printed and "pr_auc" in printed


def test_the_same_command_again_does_nothing(data):
    train.main(train_flags(data))
    before = {path: path.stat().st_mtime_ns for path in run_folder(data).glob("*.pth")}
    train.main(train_flags(data))
    assert before == {path: path.stat().st_mtime_ns for path in run_folder(data).glob("*.pth")}


def test_more_epochs_go_on(data, expected):
    train.main(train_flags(data, "--epochs", "1"))
    train.main(train_flags(data, "--resume", str(run_folder(data) / "last.pth")))
    assert_same(expected, outcome(data))


@pytest.mark.parametrize("stop_at", [1, 4, 6, 7, 10])
def test_an_interruption_changes_nothing(data, expected, monkeypatch, stop_at):
    """Stopped before any optimiser step, within an epoch or between saves, the run ends at the same numbers."""
    count = itertools.count()

    def stop(run, loss):
        if next(count) == stop_at:
            raise KeyboardInterrupt
        return True

    with monkeypatch.context() as patch:
        patch.setattr("engine.train._is_finite", stop)
        with pytest.raises(KeyboardInterrupt):
            train.main(train_flags(data, "--save_minutes", "0"))
    train.main(train_flags(data))
    assert_same(expected, outcome(data))


@pytest.mark.parametrize("file", ["001.pth", "best.pth", "log.csv", "curves.png", "last.pth"])
def test_a_full_disk_at_any_file_changes_nothing(data, expected, monkeypatch, file):
    replace, once = Path.replace, itertools.count()

    def full(self, target):
        if Path(target).name == file and next(once) == 0:
            raise OSError(28, "No space left on device", str(target))
        return replace(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            train.main(train_flags(data))
    assert not list(run_folder(data).glob(".*.tmp*"))
    train.main(train_flags(data))
    assert_same(expected, outcome(data))


@pytest.mark.slow
def test_kill_9_changes_nothing(data, expected):
    command = [sys.executable, str(Path(train.__file__)), *train_flags(data, "--save_minutes", "0")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in this process: more threads add up in another order
    kills = 0
    for wait in (0.05, 0.4, 0.9):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment)
        while process.poll() is None and not (run_folder(data) / "settings.json").exists():
            time.sleep(0.02)
        time.sleep(wait)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert_same(expected, outcome(data))


def test_weights_of_another_run(data):
    train.main(train_flags(data))
    start = ["--resume", str(run_folder(data) / "002.pth"), "--preload", "self"]
    flags = [*train_flags(data, *start, "--loss", "Focal", "--epochs", "1", "--lr", "1e-12"), "--out_dir", "second"]
    train.main(flags)
    first = checkpoints.read(run_folder(data) / "002.pth", "")["model"]
    second = checkpoints.read(data / "results/models/second/fold0/001.pth", "")["model"]
    weight = next(name for name in first if name.endswith("conv1.weight"))
    torch.testing.assert_close(first[weight], second[weight], atol=1e-6, rtol=0)
    with pytest.raises(UserError, match="holds another network: --arch test_resnet"):
        train.main([*flags, "--arch", "resnet18", "--out_dir", "third"])


def test_the_last_blocks_of_a_foundation_network(data, tmp_path):
    """DINO's file of three channels at another size: what is frozen stays as it is there, the last block learns."""
    weights = build("test_vit", 0, 3, 96).state_dict()
    torch.save({"teacher": {f"backbone.{name}": value for name, value in weights.items()}}, tmp_path / "dino.pth")
    more = ["--arch", "test_vit", "--pretrained", str(tmp_path / "dino.pth"), "--train_blocks", "1", "--epochs", "1"]
    train.main(train_flags(data, *more, "--optimizer", "AdamW", "--weight_decay", "0.1"))
    after = checkpoints.read(run_folder(data) / "001.pth", "")["model"]
    last = max(int(name.split(".")[1]) for name in weights if name.startswith("blocks."))
    for name, value in weights.items():
        own = after[f"net.{name}"]
        if name.startswith((f"blocks.{last}.", "norm.")):
            assert not torch.equal(own, value), name
        elif name not in ("pos_embed", "patch_embed.proj.weight"):
            assert torch.equal(own, value), name
    assert after["net.pos_embed"].shape == (1, 5, 64)
    assert torch.equal(after["net.patch_embed.proj.weight"][:, 3], weights["patch_embed.proj.weight"][:, 0])
    with pytest.raises(UserError, match="dino.pth does not fit --arch"):
        train.main(train_flags(data, *more, "--arch", "test_vit3", "--out_dir", "other"))


def test_image_mode_and_balanced_draws(data):
    flags = train_flags(data, "--cell", "image", "--img_path", str(data / "images"), "--sample", "8", "--epochs", "1")
    train.main(flags)
    assert len(pd.read_csv(run_folder(data) / "log.csv")) == 1


def test_workers_do_not_change_the_numbers(data, expected):
    train.main(train_flags(data, "--workers", "2"))
    assert_same(expected, outcome(data))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--fold", "7"], r"--fold 7 is not in .*images.csv; it has the folds 0, 1, 2, 3"),
        (["--split_name", "none"], "--split_name none: .* does not exist; makefolds.py"),
        (["--loss", "Triplet"], "--loss Triplet is not known; choose from: BCE, Focal"),
        (["--scheduler", "Step"], "--scheduler Step is not known"),
        (["--loss", "ArcFace"], "--loss ArcFace needs the cosines of --arch class_<timm>_arcface, not of test_resnet"),
        (["--arch", "densnet121"], "--arch densnet121 is neither"),
        (["--num_classes", "28"], "--num_classes 28: hpa has 19 classes"),
        (["--in_channels", "3"], "--in_channels 3: hpa images have 4"),
        (["--effective_batch", "6"], "--effective_batch 6 must be a multiple"),
        (["--crop_size", "64"], "--crop_size 64 must not exceed --img_size 40"),
        (["--arch", "densenet121", "--crop_size", "16"], "--arch densenet121 does not go with --crop_size 16 and .*: "),
        (["--arch", "class_selecsls42_dropout"], "--arch class_selecsls42_dropout does not go with --crop_size 32"),
        (["--batch_size", "0"], "--batch_size 0 must be at least 1"),
        (["--preload", "self"], "--preload does nothing without --resume"),
        (["--resume", "x.pth"], "--resume x.pth without --preload"),
        (["--resume", "x.pth", "--preload", "self"], "--resume does not exist: x.pth"),
        (["--pretrained", "none.pth"], "--pretrained does not exist: none.pth"),
        (["--dataset", "external"], "--img_path .* has no dataset external .it has test, train."),
        (["--competition", "riva2"], "--competition riva2 is not known"),
        (["--gpu_id", "one"], "--gpu_id one must be"),
        (["--sample", "-2"], "--sample -2 must be -1, 0 or a number of samples"),
        (["--seed", "-1"], "--seed -1 must be at least 0"),
        (["--ema", "1.5"], "--ema 1.5 must be from 0 to 1"),
        (["--swa_start", "3"], "--swa_start 3 is beyond --epochs 2"),
        (["--swa_lr", "0.5"], "--swa_lr does nothing without --swa_start"),
        (["--mix_share", "0.3"], "--mix_share does nothing without --mixup or --cutmix"),
        (["--final_lr", "0.1"], "--final_lr is for --scheduler cosine, not AdamShortRun"),
        (["--warmup_epochs", "1"], "--warmup_epochs is for --scheduler constant, cosine, plateau, not Adam"),
        (["--lr", "0"], "--lr 0.0 must be above 0"),
        (["--loss", "CrossEntropy"], "--loss CrossEntropy is for classes that exclude each other; in hpa a cell may"),
        (["--arch", "class_test_resnet_dropout", "--batch_size", "1", "--effective_batch", "1"],
         "--arch class_test_resnet_dropout compares the samples of a batch .batch norm.: --batch_size, --sample and"),
        (["--patience", "-1"], "--patience -1 must be at least 0"),
        (["--clipnorm", "-1"], "--clipnorm -1.0 must be at least 0"),
        (["--effective_batch", "-4"], "--effective_batch -4 must be at least 1"),
        (["--external_groups", "groups.csv"], "--external_groups does nothing without --external"),
    ],
)
def test_bad_flags(data, flags, message):
    with pytest.raises(UserError, match=message):
        train.main(train_flags(data, *flags))


@pytest.mark.parametrize("fused", ["0", "1"])
def test_a_loss_scale_and_the_fused_optimiser(data, monkeypatch, fused):
    """As on a GPU: gradients are clipped under a loss scale that the fused step takes away itself."""
    scaler = torch.amp.GradScaler("cpu", init_scale=64.0)
    scaled = Autocast("16-mixed", "cpu", scaler=scaler)
    monkeypatch.setattr(train, "make_fabric", lambda *_: Fabric(accelerator="cpu", devices=1, plugins=[scaled]))
    train.main(train_flags(data, "--fused", fused, "--clipnorm", "0.01", "--epochs", "1"))
    log = pd.read_csv(run_folder(data) / "log.csv")
    assert np.isfinite(log["train_loss"]).all()
    assert checkpoints.read(run_folder(data) / "last.pth", "")["precision"]["scale"] == 64.0  # no step was left out


@pytest.mark.parametrize("fused", ["0", "1"])
def test_a_run_of_a_cpu_goes_on_under_a_loss_scale(data, monkeypatch, fused):
    """As one that is taken to a GPU, where the optimiser may be another kind, too."""
    train.main(train_flags(data, "--fused", "1" if fused == "0" else "0", "--epochs", "1"))
    scaled = Autocast("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu", init_scale=64.0))
    monkeypatch.setattr(train, "make_fabric", lambda *_: Fabric(accelerator="cpu", devices=1, plugins=[scaled]))
    train.main(train_flags(data, "--fused", fused, "--epochs", "2"))
    assert np.isfinite(pd.read_csv(run_folder(data) / "log.csv")["train_loss"]).tolist() == [True, True]
    state = checkpoints.read(run_folder(data) / "last.pth", "")
    assert bool(state["optimizer"]["param_groups"][0]["fused"]) == (fused == "1") and state["precision"]["scale"] == 64


def test_shares_of_other_processes_are_not_gone_on_with(data, monkeypatch):
    monkeypatch.setattr(engine.train, "_end_epoch", stop)
    with pytest.raises(KeyboardInterrupt):
        train.main(train_flags(data, "--save_minutes", "0"))
    state = checkpoints.read(run_folder(data) / "last.pth", "")
    assert state["progress"]["step"] and state["processes"] == 1
    checkpoints.save(state | {"processes": 2}, run_folder(data) / "last.pth")
    with pytest.raises(UserError, match=r"middle of an epoch, of which 2 processes .GPUs. did their shares: .*, not 1"):
        train.main(train_flags(data, "--save_minutes", "0"))


def stop(*_) -> None:
    raise KeyboardInterrupt


def test_other_settings_in_the_same_folder(data):
    train.main(train_flags(data, "--epochs", "1"))
    with pytest.raises(UserError, match="other settings .--loss BCE -> Focal.; choose another --out_dir"):
        train.main(train_flags(data, "--loss", "Focal"))


def test_other_folds_under_the_same_name(data):
    train.main(train_flags(data, "--epochs", "1"))
    path = data / "cv_folds" / "random_folds4" / "images.csv"
    table = pd.read_csv(path)
    path.with_name("cells.csv").write_text("")  # of no concern to a run that learns from the labels of images
    train.main(train_flags(data, "--epochs", "1"))
    table.assign(Fold=(table["Fold"] + 1) % 4).to_csv(path, index=False)
    with pytest.raises(UserError, match=r"learned from other files: what --split_name images.csv names has changed"):
        train.main(train_flags(data))


def test_what_a_run_starts_from_and_learns_from_may_not_change(data):
    train.main(train_flags(data, "--epochs", "1", "--out_dir", "first"))
    weights = data / "results" / "models" / "first" / "fold0" / "001.pth"
    own = ["--epochs", "1", "--preload", "self", "--resume", str(weights)]
    train.main(train_flags(data, *own))
    content = weights.read_bytes()
    shutil.copy(weights.with_name("last.pth"), weights)
    with pytest.raises(UserError, match="learned from other files: what --resume names has changed since"):
        train.main(train_flags(data, *own))
    weights.unlink()  # which the run has in its own state
    train.main(train_flags(data, *own))
    weights.write_bytes(content)
    (data / "crops" / "train" / "image05.zip").unlink()
    with pytest.raises(UserError, match=r"last.pth is of a run on other samples"):
        train.main(train_flags(data, *own, "--epochs", "2"))


def test_images_without_crops_are_counted(data, capsys):
    (data / "crops" / "train" / "image05.zip").unlink()
    train.main(train_flags(data, "--epochs", "1"))
    assert "1 of 9 training images have nothing in --img_path: image05" in capsys.readouterr().out
    (data / "external.csv").write_text("ID,Label\nzz1,3\nzz2,4\n")
    with pytest.raises(UserError, match="--img_path .* has none of the images of --external .*external.csv in --data"):
        train.main(train_flags(data, "--out_dir", "more", "--external", str(data / "external.csv")))


def test_a_gpu_without_memory_is_one_sentence(data, monkeypatch):
    def full(*given):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("models.classifier.Classifier.forward", full)
    with pytest.raises(UserError, match="the GPU's memory does not suffice: a smaller --batch_size, with the same"):
        train.main(train_flags(data))


def test_a_damaged_state(data):
    train.main(train_flags(data, "--epochs", "1"))
    last = run_folder(data) / "last.pth"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(UserError, match="last.pth is not a readable checkpoint"):
        train.main(train_flags(data))


def test_a_loss_that_is_not_finite_stops(data):
    with pytest.raises(UserError, match="the training loss is (nan|inf) in epoch"):
        train.main(train_flags(data, "--lr", "1e30", "--clipnorm", "0", "--epochs", "9"))
    assert not list(run_folder(data).glob(".*.tmp*"))
