"""The benchmarks that others call: their tables' form and that both ways do the same, at the smallest scale."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import scale, speed, training_step
from cells.masks import decode_mask
from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = [path.stem for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_is_listed_and_says_what_it_takes(name, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as ended:
        importlib.import_module(f"benchmarks.{name}").main()
    assert ended.value.code == 0 and "usage:" in capsys.readouterr().out
    assert name in (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_table_of_speeds(capsys):
    speed.main(["--quick", "--topics", "mask text", "crops bytes"])
    lines = capsys.readouterr().out.splitlines()
    assert [line[:22].split() for line in lines[1:]] == [
        ["mask", "text", "ours"], ["mask", "text", "straight"], ["crops", "bytes", "ours"],
        ["crops", "bytes", "straight"],
    ]  # fmt: skip
    assert lines[4].split()[3:5] == ["2359.3", "kB"]  # 768 x 768 x 4 bytes


@pytest.mark.slow
def test_both_ways_of_a_training_step(capsys):
    small = ["--crop_size", "32", "--batch_size", "2", "--steps", "2", "--rounds", "1"]
    training_step.main([*small, "--ways", "ours", "plain"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["ours", "plain"] and lines[1].endswith("1.00 x ours")


def test_an_unknown_topic():
    with pytest.raises(UserError, match="--topics: breakfast is not known; choose from: labelling, mask text"):
        speed.main(["--topics", "breakfast"])


@pytest.mark.slow
def test_the_scripts_bear_the_tables_of_scale(capsys):
    scale.main(["--cells", "300", "--views", "2", "--size", "256"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("300 cells of 15 images")
    assert [line.split(".py")[0] for line in lines[1:6]] == [
        "makefolds", "convertpredictions", "convertpredictions", "ensemble", "evaluate",
    ]  # fmt: skip


def test_made_up_cells_have_masks(tmp_path):
    scale.make_data(tmp_path, 30, 256, ["default"])
    cells, truth = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("cells", "truth"))
    assert len(cells) == 30
    assert set(cells["ImageID"]) == set(truth["ImageID"])
    assert all(decode_mask(text, 256, 256).any() for text in cells["PredictionString"])
    with np.load(tmp_path / "raw" / "cell" / "fold0" / "epoch_006" / "default_seed0" / "prob_test.npz") as raw:
        assert raw["ids"].tolist() == cells["Image"].tolist()
