"""Kills, full disks, second starts and workers that die; benchmarks/nothing_lost.py does the same at every stage."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small_data import make_small_data, predict_flags, train_flags

import makefolds
import test as predict
import train
from cells.store import Store
from cells.table import write_table
from common.errors import UserError, run
from common.files import atomic, check_archive, remove_leftovers, sole_writer
from common.seeds import rng
from competitions.pannuke_files import write_array
from engine import checkpoints

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="stages run in forks")
def test_some_stages_end_the_same_after_kills_on_full_disks_and_when_started_twice() -> None:
    command = [sys.executable, "benchmarks/nothing_lost.py", "--competitions", "neurons", "--kills", "3"]
    flags = ["--disks", "1", "--stages", "synthesize,findduplicates,makefolds"]
    ended = subprocess.run([*command, *flags], cwd=ROOT, capture_output=True, text=True)
    assert not ended.returncode, ended.stdout + ended.stderr
    tables = ended.stdout[ended.stdout.index("\nkill") :]
    assert tables.count(" 3 kills") == tables.count(" refused") == 3
    assert tables.count(" 1 full") + tables.count("no right to mount") == 3


def hold(folder: Path) -> int:
    """Another process that holds a folder; its id."""
    process = os.fork()
    if not process:
        with sole_writer(folder), atomic(folder / "x.csv") as temporary:
            temporary.write_text("half")
            (folder / "held").touch()
            time.sleep(60)
        os._exit(0)
    while not (folder / "held").exists():
        time.sleep(0.01)
    return process


def test_a_second_writer_refuses_until_the_first_has_ended_or_been_killed(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    process = hold(folder)
    try:
        with pytest.raises(UserError, match="another process is writing to .*folder; wait for it"), sole_writer(folder):
            pytest.fail("both write")
        assert [path.suffix for path in folder.glob(".x.*")] == [".csv"]
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    with sole_writer(folder):
        assert {path.name for path in folder.iterdir()} == {"held", ".lock"}
    assert [path.name for path in folder.iterdir()] == ["held"]


def test_a_new_folder_goes_when_nothing_was_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nothing"), sole_writer(tmp_path / "a" / "b"):
        raise UserError("nothing")
    assert not list(tmp_path.iterdir())
    with sole_writer(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "x").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["x"]


def test_leftovers_of_one_file_or_of_all(tmp_path: Path) -> None:
    names = [".a.12.tmp.csv", ".a[1].3.tmp.csv", ".b.4.tmp", "a.csv", ".hidden", ".a.tmp.csv"]
    for name in names:
        (tmp_path / name).touch()
    remove_leftovers(tmp_path, "a[1]")
    assert {path.name for path in tmp_path.iterdir()} == set(names) - {".a[1].3.tmp.csv"}
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", ".hidden", ".a.tmp.csv"}


def test_a_full_disk_in_one_sentence(tmp_path: Path, monkeypatch, capsys) -> None:
    (tmp_path / "train.csv").write_text("ID,Label\na,0\nb,1\nc,0\nd,1\n")
    flags = ["--metadata", str(tmp_path / "train.csv"), "--folds_dir", str(tmp_path), "--split_name", "folds2"]

    def full(file: int) -> None:
        raise OSError(28, "No space left on device", "images.csv")

    with monkeypatch.context() as patch:
        patch.setattr("common.files.os.fsync", full)
        with pytest.raises(SystemExit, match="2"):
            run(lambda: makefolds.main(flags))
    text = capsys.readouterr().err
    assert text.count("\n") == 1 and "error: the disk is full at images.csv; free some space and run the same" in text
    assert [path.name for path in tmp_path.iterdir()] == ["train.csv"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file can be longer than `size` bytes: as good as a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [100, 50_000, 2_000_000])
def test_a_checkpoint_that_does_not_fit_is_an_error_of_the_disk(tmp_path: Path, size: int) -> None:
    """torch's own error, when it cannot end its file, says nothing of it."""
    with pytest.raises(OSError, match="File too large"), files_of_at_most(size // 2):
        checkpoints.save({"model": {"weight": torch.zeros(size)}}, tmp_path / "x.pth")
    assert not list(tmp_path.iterdir())


def test_arrays_that_do_not_fit_are_an_error_of_the_disk(tmp_path: Path) -> None:
    """A memory-mapped file would end the process."""
    parts = [np.full((40, 40), number) for number in range(9)]
    with pytest.raises(OSError, match="File too large"), files_of_at_most(9999):
        write_array(tmp_path / "x.npy", np.uint16, (9, 40, 40), parts)
    assert not list(tmp_path.iterdir())
    write_array(tmp_path / "x.npy", np.uint16, (9, 40, 40), parts)
    assert np.array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), parts)


def test_a_state_that_was_restored_has_the_same_bytes(tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3))
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(2, 4)).sum().backward()
    optimizer.step()
    settings = {"names": ["a", "".join(["a"])], "arch": "".join(["te", "st"])}

    def save(path: Path) -> bytes:
        state = {"model": net.state_dict(), "optimizer": optimizer.state_dict(), "settings": settings, "epoch": 1}
        checkpoints.save(state, path)
        return path.read_bytes()

    first = save(tmp_path / "one.pth")
    state = checkpoints.read(tmp_path / "one.pth", "--resume")
    net.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    settings = state["settings"]
    assert save(tmp_path / "another name.pth") == first
    assert state["model"]._metadata == net.state_dict()._metadata


def test_each_bit_of_the_weights_counts(tmp_path: Path) -> None:
    """torch reads them without looking at the checksums of its files."""
    path = tmp_path / "x.pth"
    checkpoints.save({"model": {"weight": torch.zeros(500)}, "settings": {}, "epoch": 1}, path)
    check_archive(path)
    data = path.read_bytes()
    start = data.index(bytes(2000))
    for place in rng(1, "bits").integers(start, start + 2000, 20):
        path.write_bytes(data[:place] + b"\x40" + data[place + 1 :])
        assert torch.load(path, weights_only=True)["model"]["weight"].any()
        with pytest.raises(UserError, match=r"--resume .*x\.pth is not a readable checkpoint .* in it is damaged"):
            checkpoints.read(path, "--resume")


@pytest.mark.slow
def test_a_reader_that_dies_is_named_with_its_image(tmp_path: Path, monkeypatch) -> None:
    """Training and prediction stop in one sentence, and go on from there."""
    data, parent, read = make_small_data(tmp_path, images=8), os.getpid(), Store.read
    alone = make_small_data(tmp_path / "alone", images=8)
    train.main(train_flags(alone, "--workers", "2"))

    def deadly(self, image: str, *args):
        if image.endswith("image06") and os.getpid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, image, *args)

    message = r"a process that reads images was killed while it read .*image06\+\d.*; was there enough memory\? Run"
    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", deadly)
        with pytest.raises(UserError, match=message):
            train.main(train_flags(data, "--workers", "2", "--save_minutes", "0"))
    train.main(train_flags(data, "--workers", "2"))
    logs = [folder / "results" / "models" / "run" / "fold0" / "log.csv" for folder in (data, alone)]
    assert logs[0].read_text() == logs[1].read_text()
    with monkeypatch.context() as patch:
        patch.setattr(Store, "read", deadly)
        with pytest.raises(UserError, match=message):
            predict.main(predict_flags(data, "--workers", "1"))
    predict.main(predict_flags(data, "--workers", "1"))


def test_what_a_killed_prediction_left_goes(tmp_path: Path) -> None:
    data = make_small_data(tmp_path, images=4)
    train.main(train_flags(data, "--epochs", "1"))
    flags = [*predict_flags(data, "--augment", "default,fliplr"), "--predict_epoch", "1"]
    predict.main(flags)
    out = data / "results" / "submissions" / "run" / "fold0" / "epoch_001"
    before = {path: path.read_bytes() for path in out.rglob("*.npz")}
    (out / ".parts_seed0_prob_test").mkdir()
    (out / ".parts_seed0_prob_test" / "00000000.npz").write_bytes(b"half")
    (out / "default_seed0" / ".prob_test.123.tmp.npz").write_bytes(b"half")
    predict.main(flags)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    shutil.rmtree(out / "fliplr_seed0")
    predict.main(flags)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_tables_are_whole_or_not_there(tmp_path: Path) -> None:
    """A writer that is stopped in the middle leaves the old file."""
    write_table(pd.DataFrame({"ID": ["a"]}), tmp_path / "x.csv")
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "x.csv") as temporary:
        temporary.write_text("ID\nb")
        raise KeyboardInterrupt
    assert (tmp_path / "x.csv").read_text() == "ID\na\n"
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]
