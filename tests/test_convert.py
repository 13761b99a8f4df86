"""convertpredictions.py: means over views, seeds and folds against loops; rows joined by key; what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata

import convertpredictions
from augment.views import VIEWS
from common.errors import UserError
from competitions.hpa import CLASSES

IMAGES = ["b", "a", "c", "none"]  # the last has no cells
CELLS = [("b", 1), ("b", 2), ("a", 1), ("c", 10), ("c", 9)]
IDS = [f"{image}+{cell}" for image, cell in CELLS]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pd.DataFrame({"ID": IMAGES, "ImageWidth": 4, "ImageHeight": 4, "PredictionString": "0 1 m"}).to_csv(
        tmp_path / "sample.csv", index=False
    )
    pd.DataFrame(CELLS, columns=["ImageID", "CellID"]).assign(Image=IDS).to_csv(tmp_path / "cells.csv", index=False)
    return tmp_path


def save(data: Path, ids: list[str], probs: np.ndarray | None = None, *, model: str = "net", fold: int = 0,
         view: str = "default", seed: int = 0, dataset: str = "test", key: int = 0) -> np.ndarray:  # fmt: skip
    """Write a raw prediction file; the probabilities are random but for `probs`."""
    folder = data / "submissions" / model / f"fold{fold}" / "epoch_006" / f"{view}_seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    if probs is None:
        entropy = [key, fold, seed, list(VIEWS).index(view)]
        probs = np.random.default_rng(entropy).random((len(ids), len(CLASSES))).astype(np.float32)
    np.savez(folder / f"prob_{dataset}.npz", ids=np.array(ids), probs=probs)
    return probs


def convert(data: Path, *flags: str) -> pd.DataFrame:
    convertpredictions.main([
        "--model", "net", "--epoch", "6", "--cellorimage", "cell", "--predictions_path", str(data / "submissions"),
        "--meta_csv_path", str(data / "sample.csv"), "--cell_meta_csv_path", str(data / "cells.csv"),
        "--out_path", str(data / "out"), *flags,
    ])  # fmt: skip
    (path,) = (data / "out").iterdir()
    table = pd.read_csv(path, dtype={"ImageID": str}, keep_default_na=False)
    path.unlink()
    return table


def values(table: pd.DataFrame) -> np.ndarray:
    return table[list(CLASSES)].to_numpy()


def test_mean_over_views_seeds_and_folds_joined_by_id(data: Path) -> None:
    expected = {name: np.zeros(len(CLASSES)) for name in IDS}
    for place, (fold, view, seed) in enumerate(np.ndindex(2, 8, 2)):
        ids = list(np.random.default_rng(place).permutation(IDS))  # every file in another order
        probs = save(data, ids, fold=fold, view=list(VIEWS)[view], seed=seed + 1)
        for name, row in zip(ids, probs, strict=True):
            expected[name] += row.astype(float) / 32
    table = convert(data, "--augment", "all", "--seeds", "1,2")
    assert table.columns.tolist() == ["ImageID", "CellID", *CLASSES]
    assert list(zip(table["ImageID"], table["CellID"], strict=True)) == CELLS
    np.testing.assert_allclose(values(table), [expected[name] for name in IDS], atol=1e-7)


def test_chosen_views_seeds_and_folds(data: Path) -> None:
    for fold in range(3):
        for view in ("default", "flipud", "transpose"):
            for seed in (1, 7):
                save(data, IDS, fold=fold, view=view, seed=seed)
    table = convert(data, "--augment", "flipud,transpose", "--seeds", "7", "--folds", "1,2")
    expected = [save(data, IDS, fold=fold, view=view, seed=7) for fold in (1, 2) for view in ("flipud", "transpose")]
    np.testing.assert_allclose(values(table), np.mean(expected, axis=0), atol=1e-7)


def test_images_in_the_order_of_the_sample(data: Path) -> None:
    probs = save(data, ["c", "none", "a", "b"])
    table = convert(data, "--cellorimage", "image")
    assert table["ImageID"].tolist() == IMAGES
    assert table["CellID"].tolist() == [0] * 4
    np.testing.assert_allclose(values(table), probs[[3, 2, 0, 1]], atol=1e-7)


def test_an_image_without_cells_and_prediction_has_no_row(data: Path) -> None:
    save(data, ["c", "a", "b"])
    assert convert(data, "--cellorimage", "image")["ImageID"].tolist() == ["b", "a", "c"]
    save(data, ["none", "a", "b"])
    with pytest.raises(UserError, match="net has no prediction for c"):
        convert(data, "--cellorimage", "image")


def test_ranks(data: Path) -> None:
    levels = np.random.default_rng(0).integers(4, size=(2, len(IDS), len(CLASSES))) / 4  # with ties
    for probs, view in zip(levels, ("default", "flipud"), strict=True):
        save(data, IDS, probs.astype(np.float32), view=view)
    table = convert(data, "--augment", "default,flipud", "--rank", "1")
    expected = [(rankdata(probs, axis=0) - 1) / (len(IDS) - 1) for probs in levels]
    np.testing.assert_allclose(values(table), np.mean(expected, axis=0), atol=1e-7)


def test_truncate_rounds(data: Path) -> None:
    probs = save(data, IDS)
    np.testing.assert_allclose(values(convert(data, "--truncate", "2")), np.round(probs.astype(float), 2), atol=1e-7)


def test_file_name(data: Path) -> None:
    save(data, IDS)
    for stamp, pattern in (("0", "probabilities_net_6.csv"), ("1", "probabilities_net_6_????????_??????.csv")):
        convertpredictions.main([
            "--model", "net", "--epoch", "6", "--cellorimage", "cell", "--predictions_path", str(data / "submissions"),
            "--meta_csv_path", str(data / "sample.csv"), "--cell_meta_csv_path", str(data / "cells.csv"),
            "--out_path", str(data / stamp), "--add_datetime", stamp, "--batch_size", "100",
        ])  # fmt: skip
        assert len(list((data / stamp).glob(pattern))) == len(list((data / stamp).iterdir())) == 1


def test_out_of_fold_joins_the_folds(data: Path) -> None:
    first = save(data, IDS[3:], fold=0, dataset="valid")
    second = save(data, IDS[:3], fold=3, dataset="valid")
    table = convert(data, "--dataset", "valid")
    np.testing.assert_allclose(values(table), np.concatenate([second, first]), atol=1e-7)
    some = convert(data, "--dataset", "valid", "--folds", "3")
    assert list(zip(some["ImageID"], some["CellID"], strict=True)) == CELLS[:3]


def test_out_of_fold_errors(data: Path) -> None:
    save(data, IDS[3:], fold=0, dataset="valid")
    with pytest.raises(UserError, match=r"no prediction for b\+1 \(3 are missing\); --folds picks"):
        convert(data, "--dataset", "valid")
    save(data, IDS[:4], fold=1, dataset="valid")
    with pytest.raises(UserError, match=r"c\+10 is predicted by more than one fold of 0, 1"):
        convert(data, "--dataset", "valid")
    save(data, IDS[1:3], fold=2, dataset="valid")
    with pytest.raises(UserError, match=r"no prediction for b\+1 \(1 are missing\)"):  # not a whole image
        convert(data, "--dataset", "valid", "--folds", "2")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (IDS[:-1], r"net has no prediction for c\+9 \(1 are missing\)"),
        ([*IDS, "d+1"], r"net hold d\+1, which the given tables do not know"),
        ([*IDS, "a+1"], r"prob_test\.npz has the id a\+1 more than once"),
        ([], r"text \(N,\) and"),
    ],
)
def test_wrong_ids_are_named(data: Path, ids: list[str], message: str) -> None:
    save(data, ids)
    with pytest.raises(UserError, match=message):
        convert(data)
    assert not (data / "out").exists()


def test_files_with_other_ids_are_named(data: Path) -> None:
    save(data, IDS)
    for ids, message in (
        (IDS[1:], r"flipud_seed0/prob_test\.npz has no prediction for b\+1, which .*default_seed0"),
        ([*IDS, "z+1"], r"default_seed0/prob_test\.npz has no prediction for z\+1, which .*flipud_seed0"),
        ([*IDS[1:], IDS[1]], r"flipud_seed0/prob_test\.npz has the id b\+2 more than once"),
    ):
        save(data, ids, view="flipud")
        with pytest.raises(UserError, match=message):
            convert(data, "--augment", "default,flipud")


def test_views_of_other_weights_are_not_averaged(data: Path) -> None:
    for view, maker in (("default", 5), ("flipud", 6)):
        probs = save(data, IDS, view=view)
        np.savez(next(data.rglob(f"{view}_seed0/prob_test.npz")), ids=np.array(IDS), probs=probs, made_by=maker)
    with pytest.raises(UserError, match=r"flipud_seed0/prob_test\.npz and .*default_seed0/.*npz are of other weights"):
        convert(data, "--augment", "default,flipud")
    np.savez(next(data.rglob("flipud_seed0/prob_test.npz")), ids=np.array(IDS), probs=probs, made_by=5)
    convert(data, "--augment", "default,flipud")
    save(data, IDS, seed=2)  # another seed has other crops
    convert(data, "--seeds", "0,2")


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.1, 1.5])
def test_values_that_are_no_probabilities(data: Path, value: float) -> None:
    probs = np.full((len(IDS), len(CLASSES)), 0.5, np.float32)
    probs[2, 7] = value
    save(data, IDS, probs)
    with pytest.raises(UserError, match=r"prob_test\.npz: a\+1 has the value .*not a probability"):
        convert(data)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"ids": np.array(IDS), "probs": np.zeros((5, 18), np.float32)}, r"shape \(5, 18\)"),
        ({"ids": np.array(IDS, object), "probs": np.zeros((5, 19))}, "not a file of raw predictions"),
        ({"ids": np.arange(5), "probs": np.zeros((5, 19))}, "ids of type int64"),
        ({"names": np.array(IDS), "probs": np.zeros((5, 19))}, "not a file of raw predictions"),
    ],
)
def test_files_of_another_form(data: Path, content: dict, message: str) -> None:
    save(data, IDS)
    (path,) = data.rglob("prob_test.npz")
    np.savez(path, **content)
    with pytest.raises(UserError, match=message):
        convert(data)


def test_damaged_files(data: Path) -> None:
    save(data, IDS)
    (path,) = data.rglob("prob_test.npz")
    whole = path.read_bytes()
    for content in (b"", b"PK nothing", whole[: len(whole) // 2], whole[:300] + b"\0\1\2" * 9 + whole[327:]):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"prob_test\.npz is not a file of raw predictions"):
            convert(data)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "other"], "--model does not exist"),
        (["--model", "../submissions"], "cannot be a file name"),
        (["--folds", "4"], "fold4 does not exist; there are the folds 0"),
        (["--folds", "zero"], "must be whole numbers"),
        (["--seeds", "1,"], "--seeds 1, must be whole numbers"),
        (["--seeds", "2"], "default_seed2/prob_test.npz does not exist: run test.py"),
        (["--augment", "upside"], "--augment upside is not known; choose from: default, flipud"),
        (["--augment", "all"], "flipud_seed0/prob_test.npz does not exist"),
        (["--epoch", "7"], "epoch_007/default_seed0/prob_test.npz does not exist"),
        (["--dataset", "train"], "prob_train.npz does not exist"),
        (["--competition", "chess"], "choose from: hpa"),
        (["--truncate", "-1"], "--truncate -1 must be at least 0"),
    ],
)
def test_flags_that_lead_nowhere(data: Path, flags: list[str], message: str) -> None:
    save(data, IDS)
    with pytest.raises(UserError, match=message):
        convert(data, *flags)


def test_tables_that_do_not_go_together(data: Path) -> None:
    save(data, IDS)
    pd.DataFrame({"ID": ["a", "b"], "Label": "0"}).to_csv(data / "sample.csv", index=False)
    with pytest.raises(UserError, match=r"cells\.csv has cells of c, which .*sample\.csv lacks"):
        convert(data)


def test_a_model_without_folds(data: Path) -> None:
    (data / "submissions" / "empty").mkdir(parents=True)
    with pytest.raises(UserError, match="has no folder fold0"):
        convert(data, "--model", "empty")


def test_cells_need_their_table(data: Path) -> None:
    save(data, IDS)
    with pytest.raises(UserError, match="needs --cell_meta_csv_path"):
        convertpredictions.main([
            "--model", "net", "--epoch", "6", "--cellorimage", "cell", "--predictions_path", str(data / "submissions"),
            "--meta_csv_path", str(data / "sample.csv"), "--out_path", str(data / "out"),
        ])  # fmt: skip
