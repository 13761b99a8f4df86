"""Rounds of pseudo-labels: of labelled cells and of images without labels, and that training is towards them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_data import make_small_data
from small_data import train_flags as hpa_flags
from small_scenes import CLASSES, make_small_scenes

import convertpredictions
import makefolds
import pseudolabels
import segment
import test as predict
import train
from cells.table import KEY, read_probabilities, write_table
from common.errors import UserError
from competitions import hpa
from models import Classifier

NAMES = CLASSES.split(",")
OWN = ["--competition", "cytologia", "--classes", CLASSES]


def write(path: Path, text: str) -> str:
    path.write_text(text.replace(" ", "\n") + "\n")
    return str(path)


def soft_labels(folder: Path, *flags: str) -> pd.DataFrame:
    pseudolabels.main([*OWN, *flags, "--out", str(folder / "soft.csv")])
    return read_probabilities(folder / "soft.csv", NAMES)


def test_cells_with_a_label_of_their_own_by_hand(tmp_path):
    """A label that the network doubts keeps what makes it at least --floor; the rest is as the network says."""
    table = write(tmp_path / "t.csv", f"ImageID,CellID,{CLASSES} a,1,.1,.9,0 a,2,.8,.1,.1 b,1,.2,.5,.3")
    cells = write(tmp_path / "c.csv", "ImageID,CellID,Label a,1,0 a,2,0 b,1,")
    images = write(tmp_path / "m.csv", "NAME,x1,y1,x2,y2,class a,0,0,9,9,Red a,0,0,9,9,Red b,0,0,9,9,Blue")
    flags = ["--tables", table, "--cell_metadata", cells, "--metadata", images]
    soft = soft_labels(tmp_path, *flags)
    expected = [[0.5 / 1.4, 0.9 / 1.4, 0], [0.8, 0.1, 0.1], [0.2, 0.5, 0.3]]  # b's cell has no label
    np.testing.assert_allclose(soft[NAMES], expected, atol=1e-6)
    np.testing.assert_allclose(soft_labels(tmp_path, *flags, "--absent", "0")[NAMES].iloc[:2], [[1, 0, 0]] * 2)
    assert len(soft_labels(tmp_path, *flags, "--least", "0.6")) == 2


def test_as_many_cells_as_are_wanted(tmp_path, capsys):
    table = write(tmp_path / "t.csv", f"ImageID,CellID,{CLASSES} a,1,1,0,0 a,2,0,1,0 a,3,0,0,1 b,1,.6,.4,0 b,2,1,0,0")
    cells = write(tmp_path / "c.csv", "ImageID,CellID,Label,score a,1,,.2 a,2,,.9 a,3,,.5 b,1,,.9 b,2,,.8")
    wanted = write(tmp_path / "m.csv", "trustii_id,NAME 1,a 2,b 3,a")
    flags = ["--tables", table, "--cell_metadata", cells, "--metadata", wanted]
    assert soft_labels(tmp_path, *flags)[KEY].to_numpy().tolist() == [["a", 2], ["a", 3], ["b", 1]]
    assert "soft.csv: 3 cells" in capsys.readouterr().out
    assert soft_labels(tmp_path, *flags, "--least", "0.6")[KEY].to_numpy().tolist() == [["a", 2]]  # b's: .9 x .6
    with pytest.raises(UserError, match=r"--least 0.95: nothing is as sure as that; the highest confidence is 0.9"):
        soft_labels(tmp_path, *flags, "--least", "0.95")


def test_a_round_after_one_that_left_unsure_cells_out(tmp_path):
    """The earlier round wrote only the sure ones of the cells without a label: the others get the new opinion."""
    table = write(tmp_path / "t.csv", f"ImageID,CellID,{CLASSES} a,1,.6,.4,0 a,2,.4,.6,0 b,1,.2,.8,0")
    cells = write(tmp_path / "c.csv", "ImageID,CellID,Label,score a,1,,1 a,2,,1 b,1,,1")
    wanted = write(tmp_path / "m.csv", "trustii_id,NAME 1,a 2,b 3,a")
    before = write(tmp_path / "b.csv", f"ImageID,CellID,{CLASSES} a,1,1,0,0 b,1,.1,.9,0")
    flags = ["--tables", table, "--cell_metadata", cells, "--metadata", wanted, "--previous", before, "--blend", ".5"]
    np.testing.assert_allclose(soft_labels(tmp_path, *flags)[NAMES], [[0.8, 0.2, 0], [0.4, 0.6, 0], [0.15, 0.85, 0]])
    write(tmp_path / "c.csv", "ImageID,CellID,Label,score a,1,,1 a,2,,x b,1,,1")
    with pytest.raises(UserError, match=r"c.csv row 3, column score: 'x' is not a finite number"):
        soft_labels(tmp_path, *flags)


def test_whole_images(tmp_path):
    table = write(tmp_path / "t.csv", f"ImageID,CellID,{CLASSES} a,0,.2,.9,.4 b,0,.6,.4,0")
    labels = write(tmp_path / "m.csv", "NAME,x1,y1,x2,y2,class a,0,0,9,9,Red a,0,0,9,9,White b,0,0,0,0,")
    soft = soft_labels(tmp_path, "--tables", table, "--metadata", labels, "--absent", "0.5")
    np.testing.assert_allclose(soft[NAMES], [[0.5, 0.9, 0.2], [0.3, 0.2, 0]], atol=1e-6)  # several classes at once
    assert soft["CellID"].tolist() == [0, 0]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Eight labelled images in two folds and four without labels, cut; cells of the latter have a score."""
    folder = make_small_scenes(tmp_path_factory.mktemp("rounds"), images=12)
    table = pd.read_csv(folder / "train.csv")
    test = table["NAME"].isin(["8.png", "9.png", "10.png", "11.png"])
    write_table(table[~test], folder / "train.csv")
    write_table(table[test], folder / "truth.csv")
    write_table(table.loc[test, ["NAME"]].assign(trustii_id=range(test.sum())), folder / "test.csv")
    for name, dataset in (("train", "train"), ("truth", "test")):
        segment.main(
            [*OWN, "--finder", "truth", "--metadata", str(folder / f"{name}.csv"), "--root_dir", str(folder / "images"),
             "--dataset", dataset, "--meta_dir", str(folder), "--crop_dir", str(folder / "cell"), "--img_dir",
             str(folder / "image"), "--cache_dir", str(folder / "cache"), "--img_size", "64", "--workers", "0"]
        )  # fmt: skip
    cells = pd.read_csv(folder / "truth_cell.csv").assign(Label="", score=0.7)
    write_table(cells, folder / "test_cell.csv")
    makefolds.main(
        [*OWN, "--metadata", str(folder / "train.csv"), "--cell_metadata", str(folder / "train_cell.csv"),
         "--folds_dir", str(folder), "--split_name", "folds2"]
    )  # fmt: skip
    return folder


def run_round(data: Path, kind: str, out: str, fold: int, *more: str) -> None:
    loss = "CrossEntropy" if kind == "cell" else "Focal"
    train.main(
        [*OWN, "--out_dir", out, "--fold", str(fold), "--result_dir", str(data / "results"), "--arch", "test_resnet",
         "--img_path", str(data / kind), "--cell", kind, "--loss", loss, "--folds_dir", str(data), "--split_name",
         "folds2", "--img_size", "32", "--crop_size", "32", "--batch_size", "2", "--epochs", "1", "--lr", "0.003",
         "--mixup", "0", "--cutmix", "0", "--gpu_id", "cpu", *more]
    )  # fmt: skip


def opinion(data: Path, kind: str, out: str, dataset: str, folds: tuple[int, ...]) -> str:
    """Predict and convert; the probabilities table."""
    for fold in folds:
        predict.main(
            [*OWN, "--base_dir", str(data / "results"), "--out_dir", out, "--fold", str(fold), "--dataset", dataset,
             "--cellorimage", kind, "--img_dir", str(data / kind), "--folds_dir", str(data), "--gpu_id", "cpu"]
        )  # fmt: skip
    name = "train" if dataset == "valid" else dataset
    convertpredictions.main(
        [*OWN, "--dataset", dataset, "--model", out, "--epoch", "best", "--folds", ",".join(map(str, folds)), "--seeds",
         "0", "--augment", "default", "--cellorimage", kind, "--predictions_path", str(data / "results/submissions"),
         "--meta_csv_path", str(data / f"{name}.csv"), "--cell_meta_csv_path", str(data / f"{name}_cell.csv"),
         "--out_path", str(data / dataset)]
    )  # fmt: skip
    return str(data / dataset / f"probabilities_{out}_best.csv")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cell", "image"])
def test_a_round_from_end_to_end(data, kind, monkeypatch):
    """Two folds, their opinions of each other's and of unlabelled images, and fold 0 again towards those."""
    for fold in (0, 1):
        run_round(data, kind, kind, fold)
    soft, pseudo = str(data / f"{kind}_soft.csv"), str(data / f"{kind}_pseudo.csv")
    for dataset, name, out in (("valid", "train", soft), ("test", "test", pseudo)):
        own = ["--cell_metadata", str(data / f"{name}_cell.csv")] if kind == "cell" else []
        pseudolabels.main(
            [*OWN, "--tables", opinion(data, kind, kind, dataset, (0, 1)), "--metadata", str(data / f"{name}.csv"),
             *own, "--out", out]
        )  # fmt: skip
    seen, forward = [], Classifier.forward

    def watch(self, images, targets=None):
        if self.training:
            seen.append(targets.clone())
        return forward(self, images, targets)

    monkeypatch.setattr(Classifier, "forward", watch)
    before = data / "results" / "models" / kind / "fold0" / "best.pth"
    more = ["--soft_labels", soft, "--pseudo_labels", pseudo, "--dataset", "train,test"]
    run_round(data, kind, f"{kind}_2", 0, *more, "--resume", str(before), "--preload", "self")

    folds = pd.read_csv(data / "folds2" / "images.csv")
    tables = [read_probabilities(path, NAMES) for path in (soft, pseudo)]
    tables[0] = tables[0][tables[0]["ImageID"].isin(folds["ID"][folds["Fold"] == 1])]
    wanted = np.float32(pd.concat(tables)[NAMES])
    trained = np.concatenate([part.numpy() for part in seen])
    assert len(tables[1]) == (len(pd.read_csv(data / "test_cell.csv")) if kind == "cell" else 4)
    assert len(trained) == len(wanted) // 2 * 2  # whole batches
    assert len({*map(bytes, trained)}) == len(trained)
    assert {*map(bytes, trained)} <= {*map(bytes, wanted)}


def test_pseudo_labels_that_do_not_fit(data):
    def pseudo(name: str, rows: str) -> list[str]:
        return ["--pseudo_labels", write(data / name, f"ImageID,CellID,{CLASSES} {rows}"), "--dataset", "train,test"]

    own = pd.read_csv(data / "folds2" / "images.csv")["ID"].iloc[0]
    with pytest.raises(UserError, match=f"own.csv has {own} in common with the split; --soft_labels is for its images"):
        run_round(data, "cell", "bad", 0, *pseudo("own.csv", f"{own},1,1,0,0"))
    three = pd.read_csv(data / "folds2" / "images.csv")
    three.loc[0, "Fold"] = 2  # kept for the score: it is not to be learned from by another way
    (data / "folds3").mkdir(exist_ok=True)
    three.to_csv(data / "folds3" / "images.csv", index=False)
    apart = ["--split_name", "folds3", "--test_fold", "2"]
    with pytest.raises(UserError, match=f"own.csv has {own} in common with the split"):
        run_round(data, "image", "bad", 0, *pseudo("own.csv", f"{own},0,1,0,0"), *apart)
    with pytest.raises(UserError, match="other.csv: none of its images is in --dataset"):
        run_round(data, "cell", "bad", 0, *pseudo("other.csv", "z.png,1,1,0,0"))
    with pytest.raises(UserError, match=r"cells.csv has no row for 8\.png, 0"):
        run_round(data, "image", "bad", 0, *pseudo("cells.csv", "8.png,1,1,0,0"))


def test_weak_labels_take_further_cells_too(tmp_path, capsys):
    """hpa, where cells have the labels of their image: unlabelled images come with all of their cells."""
    folder = make_small_data(tmp_path, images=8, cells=2)
    rows = [(f"test_image{number:02d}", cell) for number in range(3) for cell in (1, 2)]
    table = pd.DataFrame(rows, columns=KEY).assign(**dict.fromkeys(hpa.CLASSES, 0.25))
    write_table(table, tmp_path / "pseudo.csv")
    more = ["--pseudo_labels", str(tmp_path / "pseudo.csv"), "--dataset", "train,test", "--epochs", "1"]
    train.main(hpa_flags(folder, *more))
    log = pd.read_csv(folder / "results" / "models" / "run" / "fold0" / "log.csv")
    assert len(log) == 1
    assert "18 training and 4 validation cells" in capsys.readouterr().out  # 12 of the split and the 6 of the table
    write_table(table.iloc[1:], tmp_path / "pseudo.csv")
    with pytest.raises(UserError, match=r"--pseudo_labels .*pseudo.csv has no row for test_image00, 1"):
        train.main(hpa_flags(folder, *more, "--out_dir", "other"))
