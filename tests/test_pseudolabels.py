"""pseudolabels.py: the rules by hand, what must hold for any numbers, rounds end to end, what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pseudolabels
from cells.pseudolabels import consistent, quantise
from cells.table import read_probabilities
from common.errors import UserError
from competitions.hpa import CLASSES, NEGATIVE

CELLS = [("a", 1), ("a", 2), ("b", 1), ("b", 3), ("n", 1)]
LABELS = {"a": "0|5", "b": "16", "n": "18", "without cells": "3"}


def test_consistency_by_hand() -> None:
    images = np.array(["a", "b", "a", "n"])
    labels = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 1]])
    probs = np.array([[0.8, 0.1, 0.3], [0.0, 0.6, 0.2], [0.02, 0.05, 0.4], [0.7, 0.3, 0.1]])
    expected = [
        [0.8, 0.6, 0],  # a reaches the floor in class 0; class 1 is scaled by .6 / .1
        [0.6, 0, 0],  # the only cell of b must have its label
        [0.02, 0.3, 0],
        [0, 0, 1],  # nothing is left but Negative
    ]
    np.testing.assert_allclose(consistent(probs, labels, images, 2, floor=0.6), expected, atol=1e-12)
    expected[1] = [0.6, 0.3, 0.1]  # classes that the image does not have, halved
    expected[0][2], expected[2][2] = 0.15, 0.2
    expected[3] = [0.35, 0.15, 0.6]
    np.testing.assert_allclose(consistent(probs, labels, images, 2, absent=0.5, floor=0.6), expected, atol=1e-12)


def test_a_cell_that_shows_nothing_is_negative() -> None:
    probs = np.array([[0.9, 0.3], [0.04, 0.3], [0.1, 0.3]])
    result = consistent(probs, np.array([[1, 0]] * 3), np.array(["a"] * 3), 1)
    np.testing.assert_allclose(result, [[0.9, 0], [0.04, 0.96], [0.1, 0]])
    without = consistent(probs, np.array([[1, 0]] * 3), np.array(["a"] * 3), None)
    np.testing.assert_allclose(without, [[0.9, 0], [0.04, 0], [0.1, 0]])


@pytest.mark.parametrize("smallest", [0.0, 5e-324, 1e-300])
def test_the_smallest_opinion_can_be_raised(smallest: float) -> None:
    result = consistent(np.array([[smallest, 0.2], [0.0, 0.2]]), np.array([[1, 0]] * 2), np.array(["a"] * 2), None)
    assert result.max(axis=0).tolist() == pytest.approx([0.5, 0])


@given(st.integers(0, 2**32 - 1), st.floats(0, 1), st.floats(0, 1), st.integers(1, 8))
@settings(max_examples=60, deadline=None)
def test_what_holds_for_any_numbers(seed: int, absent: float, floor: float, steps: int) -> None:
    generator = np.random.default_rng(seed)
    numbers = generator.integers(4, size=9)
    images, labels = np.array(list("abcd"))[numbers], (generator.random((4, 5)) < 0.5)[numbers]
    probs = generator.random((9, 5)) * (generator.random((9, 5)) < 0.7)
    result = consistent(probs, labels, images, 4, absent, floor, nothing=0.2)
    assert ((result >= 0) & (result <= 1)).all()
    others = result[:, :4]
    np.testing.assert_allclose(others[~labels[:, :4]], (absent * probs[:, :4])[~labels[:, :4]])
    for name in np.unique(images):
        own = images == name
        for index in np.flatnonzero(labels[own][0][:4]):
            old, new = probs[own, index], others[own, index]
            assert new.max() == pytest.approx(max(old.max(), floor))
            np.testing.assert_allclose(new * old.max(), old * new.max())  # in proportion
    nothing = others.max(axis=1) < 0.2
    np.testing.assert_allclose(result[nothing].max(axis=1, initial=0), 1 - others[nothing].max(axis=1, initial=0))
    rounded = quantise(result, steps)
    assert np.abs(rounded - result).max() <= 0.5 / steps + 1e-12
    np.testing.assert_allclose(rounded * steps, np.round(rounded * steps))
    np.testing.assert_allclose(quantise(rounded, steps), rounded)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two folds' tables, an image table, train.csv and a cells table with a dropped cell."""
    pd.DataFrame(LABELS.items(), columns=["ID", "Label"]).to_csv(tmp_path / "train.csv", index=False)
    cells = pd.DataFrame([*CELLS, ("b", 2)], columns=["ImageID", "CellID"]).assign(keep=[1, 1, 1, 1, 1, 0])
    cells.to_csv(tmp_path / "cells.csv", index=False)
    generator = np.random.default_rng(0)
    for name, keys in {
        "fold0": CELLS[2::-1], "fold1": CELLS[3:], "images": [("n", 0), ("b", 0), ("a", 0), ("without cells", 0)],
        "previous": CELLS[::-1],
    }.items():  # fmt: skip
        table = pd.DataFrame(generator.random((len(keys), 19)).round(6), columns=list(CLASSES))
        pd.concat([pd.DataFrame(keys, columns=["ImageID", "CellID"]), table], axis=1).to_csv(
            tmp_path / f"{name}.csv", index=False
        )
    return tmp_path


def run(data: Path, *flags: str) -> np.ndarray:
    """The soft labels (cells, 19), in the order of CELLS."""
    pseudolabels.main([
        "--tables", str(data / "fold0.csv"), str(data / "fold1.csv"), "--metadata", str(data / "train.csv"),
        "--cell_metadata", str(data / "cells.csv"), "--out", str(data / "soft.csv"), *flags,
    ])  # fmt: skip
    table = read_probabilities(data / "soft.csv", CLASSES)
    assert list(zip(table["ImageID"], table["CellID"], strict=True)) == CELLS
    return table[list(CLASSES)].to_numpy()


def given_probs(data: Path, *names: str) -> np.ndarray:
    """The rows of tables for CELLS; of an image table, the images' rows."""
    table = pd.concat([pd.read_csv(data / f"{name}.csv") for name in names]).set_index(["ImageID", "CellID"])
    whole = (table.index.get_level_values(1) == 0).all()
    return table.loc[[(image, 0 if whole else cell) for image, cell in CELLS], list(CLASSES)].to_numpy()


def hot() -> np.ndarray:
    labels = np.zeros((len(CELLS), 19))
    for row, (image, _) in enumerate(CELLS):
        labels[row, [int(part) for part in LABELS[image].split("|")]] = 1
    return labels


OWNERS = np.array([image for image, _ in CELLS])


def test_tables_of_folds_are_joined_and_corrected(data: Path, capsys) -> None:
    result = run(data)
    probs = given_probs(data, "fold0", "fold1")
    np.testing.assert_allclose(result, consistent(probs, hot(), OWNERS, NEGATIVE), atol=1e-7)
    assert result[4].tolist() == [0] * 18 + [1]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("soft.csv: 5 cells")
    assert lines[1].split()[1:3] == ["2", str(int((result[:, 0] >= 0.5).sum()))]  # two cells' image has class 0


def test_every_option(data: Path) -> None:
    flags = ["--image_tables", str(data / "images.csv"), "--previous", str(data / "previous.csv"), "--blend", "0.25"]
    result = run(data, *flags, "--absent", "0.3", "--floor", "0.8", "--nothing", "0.2", "--quantise", "4")
    probs = given_probs(data, "fold0", "fold1") * given_probs(data, "images")
    probs = 0.25 * given_probs(data, "previous") + 0.75 * probs
    expected = quantise(consistent(probs, hot(), OWNERS, NEGATIVE, 0.3, 0.8, 0.2), 4)
    np.testing.assert_allclose(result, expected)
    assert set(np.unique(result)) <= {0, 0.25, 0.5, 0.75, 1}


def test_a_second_round_of_the_same_opinion_changes_nothing(data: Path) -> None:
    first = run(data)
    (data / "soft.csv").rename(data / "first.csv")
    again = run(data, "--previous", str(data / "first.csv"), "--blend", "1")
    np.testing.assert_allclose(again, first, atol=1e-7)


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("fold1.csv", "b,3,", "b,7,", r"fold0\.csv, .*fold1\.csv has no row for b, 3 \(1 are missing\)"),
        ("fold1.csv", "b,3,", "a,2,", r"a, 2 is in .*fold0\.csv and in .*fold1\.csv \(1 rows are doubled\)"),
        ("cells.csv", "n,1,1", "n,1,0", r"has a row for n, 1, which the cells table does not know"),
        ("train.csv", "n,18", "m,18", r"train\.csv has no row for n"),
        ("images.csv", "n,0,", "m,0,", r"images\.csv has no row for n, 0"),
        ("images.csv", "n,0,", "n,1,", r"--image_tables .*images\.csv: rows of single cells"),
        ("previous.csv", "b,3,", "b,7,", r"previous\.csv has no row for b, 3"),
    ],
)
def test_bad_tables_are_refused(data: Path, file: str, old: str, new: str, message: str) -> None:
    text = (data / file).read_text()
    assert old in text
    (data / file).write_text(text.replace(old, new, 1))
    flags = ["--image_tables", str(data / "images.csv"), "--previous", str(data / "previous.csv"), "--blend", "0.5"]
    with pytest.raises(UserError, match=message):
        run(data, *flags)
    assert not (data / "soft.csv").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--floor", "1.2"], r"--floor 1\.2 must lie in 0\.\.1"),
        (["--absent", "nan"], r"--absent nan must lie in 0\.\.1"),
        (["--quantise", "-4"], "--quantise -4 must be a number of steps"),
        (["--blend", "0.5"], "--previous, the last round's soft labels, and --blend"),
        (["--previous", "x.csv"], "go together"),
    ],
)
def test_bad_flags_are_refused(data: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(data, *flags)


def test_a_finders_opinion_is_no_label(tmp_path: Path) -> None:
    """Of images without labels a cells table has the classes that the finder took cells for."""
    (tmp_path / "test.csv").write_text("trustii_id,NAME\n1,x.png\n2,x.png\n")
    (tmp_path / "cells.csv").write_text("ImageID,CellID,Label,score\nx.png,1,1,0.9\nx.png,2,1,0.1\n")
    (tmp_path / "probs.csv").write_text("ImageID,CellID,A,B\nx.png,1,0.8,0.2\nx.png,2,0.8,0.2\n")
    pseudolabels.main([
        "--competition", "cytologia", "--classes", "A,B", "--tables", str(tmp_path / "probs.csv"),
        "--metadata", str(tmp_path / "test.csv"), "--cell_metadata", str(tmp_path / "cells.csv"),
        "--least", "0.5", "--floor", "0.5", "--out", str(tmp_path / "soft.csv"),
    ])  # fmt: skip
    assert (tmp_path / "soft.csv").read_text().splitlines()[1:] == ["x.png,1,0.8,0.2"]
