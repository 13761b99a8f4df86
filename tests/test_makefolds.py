"""Folds: every image once, labels spread evenly, cells with their image, the same seed the same folds."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import makefolds
from cells.groups import check_folds
from common.errors import UserError
from competitions import get, hpa
from engine.samples import read_fold


def write_train(folder: Path, images: int = 60) -> Path:
    generator = np.random.default_rng(0)
    labels = ["|".join(map(str, generator.choice(19, generator.integers(1, 4), replace=False))) for _ in range(images)]
    path = folder / "train.csv"
    pd.DataFrame({"ID": [f"image{n}" for n in range(images)], "Label": labels}).to_csv(path, index=False)
    return path


def folds_of(folder: Path, *flags: str) -> pd.DataFrame:
    makefolds.main(["--metadata", str(folder / "train.csv"), "--folds_dir", str(folder / "cv"), *flags])
    return pd.read_csv(next((folder / "cv").glob("*/images.csv")))


def test_every_image_is_in_one_fold(tmp_path: Path, capsys) -> None:
    train = hpa.read_labels(write_train(tmp_path))
    table = folds_of(tmp_path, "--split_name", "random_folds5")
    assert table.columns.tolist() == ["ID", "Label", "Fold"]
    assert table[["ID", "Label"]].astype(str).to_numpy().tolist() == train.to_numpy().tolist()
    assert sorted(table["Fold"].unique()) == [0, 1, 2, 3, 4]
    shown = capsys.readouterr().out
    assert "fold4" in shown
    assert "18:Negative" in shown
    assert "images" in shown
    assert [path.name for path in (tmp_path / "cv" / "random_folds5").iterdir()] == ["images.csv"]


def test_the_seed_decides(tmp_path: Path) -> None:
    write_train(tmp_path)
    first, again = (folds_of(tmp_path, "--seed", "1") for _ in range(2))
    assert first.equals(again)
    assert not first.equals(folds_of(tmp_path, "--seed", "2"))


def test_folds_of_a_column(tmp_path: Path, capsys) -> None:
    rows = [(f"fold{fold}_{n:05}", "0|1", f"fold{fold}") for n in range(3) for fold in (3, 1, 2)]
    pd.DataFrame(rows, columns=["ID", "Label", "fold"]).to_csv(tmp_path / "train.csv", index=False)
    table = folds_of(tmp_path, "--competition", "pannuke", "--split_name", "official", "--by", "fold")
    assert table["Fold"].tolist() == [2, 0, 1] * 3
    with pytest.raises(UserError, match="--by tissue: .* has no such column; it has ID, Label, fold"):
        folds_of(tmp_path, "--competition", "pannuke", "--by", "tissue")
    with pytest.raises(UserError, match="--by Label: all images"):
        folds_of(tmp_path, "--competition", "pannuke", "--by", "Label")


def test_number_of_folds() -> None:
    assert makefolds.number_of_folds(None, "random_folds10") == 10
    assert makefolds.number_of_folds(3, "random_folds10") == 3
    with pytest.raises(UserError, match="does not end in a number of folds"):
        makefolds.number_of_folds(None, "mine")
    with pytest.raises(UserError, match="at least 2"):
        makefolds.number_of_folds(None, "random_folds1")


def write_cells(folder: Path, images: list[str]) -> Path:
    rows = [(f"{name}+{cell}", name, cell) for name in images for cell in (1, 2)]
    pd.DataFrame(rows, columns=["Image", "ImageID", "CellID"]).to_csv(folder / "cells.csv", index=False)
    return folder / "cells.csv"


def test_cells_follow_their_image(tmp_path: Path) -> None:
    write_train(tmp_path)
    cells = write_cells(tmp_path, ["image7", "image3"])
    images = folds_of(tmp_path, "--split_name", "x4", "--cell_metadata", str(cells)).set_index("ID")
    table = pd.read_csv(tmp_path / "cv" / "x4" / "cells.csv")
    assert table.columns.tolist() == ["Image", "ImageID", "CellID", "Label", "Fold"]
    assert table["Image"].tolist() == ["image7+1", "image7+2", "image3+1", "image3+2"]
    for column in ("Label", "Fold"):
        assert table[column].astype(str).tolist() == images.loc[table["ImageID"], column].astype(str).tolist()


def test_cells_of_an_unknown_image_are_refused(tmp_path: Path) -> None:
    write_train(tmp_path)
    with pytest.raises(UserError, match=r"train\.csv has no row for other"):
        folds_of(tmp_path, "--cell_metadata", str(write_cells(tmp_path, ["image7", "other"])))
    assert not (tmp_path / "cv").exists()


def test_cells_with_labels_of_their_own_keep_them(tmp_path: Path) -> None:
    """As text, whatever the numbers look like; a row without a label (an image without cells) is no sample."""
    write_train(tmp_path)
    rows = ["image3+1,image3,1,2", "image3+2,image3,2,11", "image7+1,image7,1,2", "image8+0,image8,0,"]
    (tmp_path / "cells.csv").write_text("\n".join(["Image,ImageID,CellID,Label", *rows]))
    images = folds_of(tmp_path, "--split_name", "x4", "--cell_metadata", str(tmp_path / "cells.csv")).set_index("ID")
    text = (tmp_path / "cv" / "x4" / "cells.csv").read_text().splitlines()
    fold = images["Fold"]
    assert text == [
        "Image,ImageID,CellID,Label,Fold", f"image3+1,image3,1,2,{fold['image3']}",
        f"image3+2,image3,2,11,{fold['image3']}", f"image7+1,image7,1,2,{fold['image7']}",
    ]  # fmt: skip


def write_groups(folder: Path, clusters: list, keep: list | None = None) -> list[str]:
    table = pd.DataFrame({"ID": [f"image{n}" for n in range(len(clusters))], "Cluster": clusters})
    table = table.assign(Keep=keep or 1).sample(frac=1, random_state=0)  # rows are matched by ID
    table.to_csv(folder / "groups.csv", index=False)
    return ["--groups", str(folder / "groups.csv")]


def test_a_cluster_is_in_one_fold(tmp_path: Path) -> None:
    write_train(tmp_path)
    groups = write_groups(tmp_path, [f"c{n // 3}" for n in range(60)])
    cells = write_cells(tmp_path, ["image0", "image1", "image5"])
    table = folds_of(tmp_path, "--split_name", "x4", *groups, "--cell_metadata", str(cells))
    assert table.columns.tolist() == ["ID", "Label", "Fold", "Cluster"]
    assert table["Cluster"].tolist() == [f"c{n // 3}" for n in range(60)]
    assert (table.groupby("Cluster")["Fold"].nunique() == 1).all()
    assert table["Fold"].value_counts().between(12, 18).all()
    cells = pd.read_csv(tmp_path / "cv" / "x4" / "cells.csv")
    assert cells["Cluster"].tolist() == ["c0"] * 4 + ["c1"] * 2
    check_folds(cells, "Cluster", "cells.csv")


def test_a_leak_is_refused_where_folds_are_read(tmp_path: Path) -> None:
    write_train(tmp_path)
    folds_of(tmp_path, "--split_name", "x4", *write_groups(tmp_path, [f"c{n // 3}" for n in range(60)]))
    path = tmp_path / "cv" / "x4" / "images.csv"
    train, valid = read_fold(tmp_path / "cv", "x4", 1, get("hpa"))
    assert not set(train["Cluster"]) & set(valid["Cluster"])
    table = pd.read_csv(path)
    table.loc[4, "Fold"] = (table["Fold"][4] + 1) % 4
    table.to_csv(path, index=False)
    with pytest.raises(UserError, match=r"images\.csv leaks: Cluster c1 is in the folds"):
        read_fold(tmp_path / "cv", "x4", 1, get("hpa"))


def test_clusters_of_one_image_change_nothing(tmp_path: Path) -> None:
    write_train(tmp_path)
    alone = folds_of(tmp_path)
    grouped = folds_of(tmp_path, *write_groups(tmp_path, list(range(60))))
    assert grouped[["ID", "Label", "Fold"]].equals(alone)


def test_duplicates_are_dropped_with_their_cells(tmp_path: Path) -> None:
    write_train(tmp_path)
    groups = write_groups(tmp_path, [n // 2 for n in range(60)], [n % 2 for n in range(60)])
    cells = write_cells(tmp_path, ["image0", "image1", "image5"])
    table = folds_of(tmp_path, "--split_name", "x4", *groups, "--drop_duplicates", "--cell_metadata", str(cells))
    assert table["ID"].tolist() == [f"image{n}" for n in range(1, 60, 2)]
    kept = pd.read_csv(tmp_path / "cv" / "x4" / "cells.csv")
    assert kept["ImageID"].tolist() == ["image1"] * 2 + ["image5"] * 2


def test_bad_groups_are_refused(tmp_path: Path) -> None:
    write_train(tmp_path)
    with pytest.raises(UserError, match=r"groups\.csv has no row for image58 \(2 are missing\)"):
        folds_of(tmp_path, *write_groups(tmp_path, [0] * 58))
    with pytest.raises(UserError, match=r"has 2 clusters of images, which is fewer than 10 folds"):
        folds_of(tmp_path, *write_groups(tmp_path, [0] * 30 + [1] * 30))
    with pytest.raises(UserError, match="--drop_duplicates needs --groups"):
        folds_of(tmp_path, "--drop_duplicates")
    assert not (tmp_path / "cv").exists()


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        ("ID\na\n", [], "lacks the column Label"),
        ("ID,Label\na,19\n", [], "row 2: Label '19' must be class indices 0 to 18"),
        ("ID,Label\na,\n", [], "row 2: Label '' must be class indices"),
        ("ID,Label\na,1\na,2\n", [], "ID = a more than once"),
        ("ID,Label\na,1\nb,2\n", ["--n_folds", "3"], "2 images, which is fewer than 3 folds"),
        ("ID,Label\n", [], "0 images"),
        ("ID,Label\na,1\nb,2\n", ["--split_name", "../out5"], "cannot be a file name"),
        ("ID,Label\na,1\nb,2\n", ["--seed", "-1"], "--seed -1 must be at least 0"),
        ("ID,Label\na,1\nb,2\n", ["--holdout", "0"], "--holdout 0 must be above 0"),
        ("ID,Label\na,1\nb,2\n", ["--holdout", "1", "--by", "Label"], "--holdout and --by do not go together"),
        ("ID,Label\na,1\nb,2\n", ["--n_folds", "2", "--holdout", "1"], "--n_folds and --holdout do not go together"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, text: str, flags: list[str], message: str) -> None:
    (tmp_path / "train.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        folds_of(tmp_path, *flags)
    assert not (tmp_path / "cv").exists()


def test_the_competitions_whole_table(real_data: Path, tmp_path: Path) -> None:
    train = real_data / "hpa" / "full_tables" / "train.csv"
    makefolds.main(["--metadata", str(train), "--folds_dir", str(tmp_path)])
    table = pd.read_csv(tmp_path / "random_folds10" / "images.csv")
    assert len(table) == 21_806
    assert not table["Label"].str.split("|").map(lambda parts: len(parts) != len(set(parts))).any()
    hot = hpa.multi_hot(table["Label"])
    assert hot.sum(axis=0).astype(int).tolist() == [
        8797, 1095, 2451, 1262, 1425, 1792, 775, 1846, 964, 998, 818, 78, 1734, 3111, 2013, 252, 5685, 593, 34,
    ]  # fmt: skip
    counts = np.array([hot[table["Fold"] == fold].sum(axis=0) for fold in range(10)])
    assert (np.ptp(counts, axis=0) <= 2).all()  # each label as evenly as whole images allow
    assert table["Fold"].value_counts().between(2_050, 2_310).all()


def test_the_whole_table_in_clusters_stays_balanced(real_data: Path, tmp_path: Path) -> None:
    """Some 5,000 of the images in clusters of two to about ten: each label still nearly even."""
    train = real_data / "hpa" / "full_tables" / "train.csv"
    ids = pd.read_csv(train)["ID"]
    generator = np.random.default_rng(5)
    clusters = np.arange(len(ids))
    chosen = generator.permutation(len(ids))[:5_000]
    clusters[chosen] = -1 - generator.integers(0, 1_200, 5_000)
    pd.DataFrame({"ID": ids, "Cluster": clusters}).to_csv(tmp_path / "groups.csv", index=False)
    flags = ["--metadata", str(train), "--folds_dir", str(tmp_path), "--groups", str(tmp_path / "groups.csv")]
    makefolds.main(flags)
    table = pd.read_csv(tmp_path / "random_folds10" / "images.csv")
    check_folds(table, "Cluster", "images.csv")
    hot = hpa.multi_hot(table["Label"])
    shares = np.array([hot[table["Fold"] == fold].sum(axis=0) for fold in range(10)]) / hot.sum(axis=0)
    common = hot.sum(axis=0) >= 500
    assert (np.abs(shares - 0.1)[:, common] < 0.01).all()
    assert table["Fold"].value_counts().between(2_050, 2_310).all()


def test_a_value_that_is_missing_is_no_fold_of_its_own(tmp_path: Path) -> None:
    for values in (("1", "2", ""), ("x", "y", ""), ("true", "false", "")):
        rows = "".join(f"i{number},0,{value}\n" for number, value in enumerate(values * 2))
        (tmp_path / "train.csv").write_text("ID,Label,part\n" + rows)
        with pytest.raises(UserError, match=r"--by part: .*train.csv lacks the value of i2, i5; each image needs one"):
            folds_of(tmp_path, "--competition", "pannuke", "--by", "part")


def test_tables_keep_their_text_and_what_an_earlier_split_left_goes(tmp_path: Path) -> None:
    text = "NAME,x1,y1,x2,y2,class\n" + "".join(
        f"{n:03}.png,{n}.50,1,20,20,{('NA', '07', '1e5')[n % 3]}\n" for n in range(12)
    )
    (tmp_path / "train.csv").write_text(text)
    own = ["--competition", "cytologia", "--classes", "NA,07,1e5", "--split_name", "held", "--tables"]
    folds_of(tmp_path, *own, "--n_folds", "3")
    folder = tmp_path / "cv" / "held"
    (folder / "cells.csv").write_text("of an earlier split\n")
    folds_of(tmp_path, *own, "--n_folds", "2")
    assert sorted(path.name for path in folder.iterdir()) == ["fold0.csv", "fold1.csv", "images.csv"]
    lines = [line for fold in (0, 1) for line in (folder / f"fold{fold}.csv").read_text().splitlines()[1:]]
    assert sorted(lines) == text.splitlines()[1:]


def test_a_holdout_of_any_size(tmp_path: Path) -> None:
    rows = "".join(f"i{number},{number % 3}\n" for number in range(40))
    path = tmp_path / "train.csv"
    path.write_text("ID,Label\n" + rows, encoding="utf-8")
    flags = ["--metadata", str(path), "--folds_dir", str(tmp_path / "folds"), "--split_name", "held", "--tables"]
    for count in (1, 7, 13, 39):
        makefolds.main([*flags, "--holdout", str(count)])
        images = pd.read_csv(tmp_path / "folds" / "held" / "images.csv")
        assert (images["Fold"] == 0).sum() == count and (images["Fold"] == 1).sum() == 40 - count
        tables = [pd.read_csv(tmp_path / "folds" / "held" / f"fold{fold}.csv") for fold in (0, 1)]
        assert [len(table) for table in tables] == [count, 40 - count]
        assert set(tables[0]["ID"]) == set(images["ID"][images["Fold"] == 0])
    by_label = images_of_fold(tmp_path, flags, 12)["Label"].value_counts()
    assert by_label.min() >= 3
    for count in (40, -1):
        with pytest.raises(UserError, match=f"--holdout {count} must be above 0 and below the 40 images"):
            makefolds.main([*flags, "--holdout", str(count)])


def images_of_fold(folder: Path, flags: list[str], count: int) -> pd.DataFrame:
    makefolds.main([*flags, "--holdout", str(count)])
    return pd.read_csv(folder / "folds" / "held" / "fold0.csv")
