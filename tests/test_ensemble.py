"""ensemble.py: the published rules by hand and against loops, the submission's form, the score, what is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import rankdata
from sklearn.metrics import average_precision_score

import ensemble
import evaluate
from cells.masks import encode_mask
from cells.triples import parse_triples, read_rows
from common.errors import UserError
from competitions import hpa
from competitions.hpa import CLASSES, NEGATIVE

IMAGES = {"b": (9, 8), "empty": (6, 6), "a": (8, 8)}  # width, height, in the sample's order
CELLS = [("a", 1), ("a", 2), ("b", 3), ("b", 1), ("a", 5)]
TABLES = {"one.csv": ("cell", 0.4), "two.csv": ("cell", 0.6), "image.csv": ("image", 1.0)}


def cell_mask(image: str, cell: int) -> str:
    width, height = IMAGES[image]
    mask = np.zeros((height, width), bool)
    mask[cell : cell + 1, 1:6] = True
    return encode_mask(mask)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three tables of probabilities, their configuration, a cells table, a sample submission, truths."""
    sizes = pd.DataFrame([(name, *size, f"0 1 {name}") for name, size in IMAGES.items()],
                         columns=["ID", "ImageWidth", "ImageHeight", "PredictionString"])  # fmt: skip
    sizes.to_csv(tmp_path / "sample.csv", index=False)
    cells = pd.DataFrame(
        [(f"{image}+{cell}", image, cell, *IMAGES[image], cell_mask(image, cell)) for image, cell in CELLS],
        columns=["Image", "ImageID", "CellID", "ImageWidth", "ImageHeight", "PredictionString"],
    )
    cells.to_csv(tmp_path / "cells.csv", index=False)
    (tmp_path / "out").mkdir()
    generator = np.random.default_rng(0)
    for name, (kind, _) in TABLES.items():
        keys = CELLS[::-1] if kind == "cell" else [("a", 0), ("b", 0), ("empty", 0)]  # not in the cells table's order
        table = pd.DataFrame(generator.random((len(keys), 19)).round(6), columns=list(CLASSES))
        table.insert(0, "CellID", [cell for _, cell in keys])
        table.insert(0, "ImageID", [image for image, _ in keys])
        table.to_csv(tmp_path / "out" / name, index=False)
    write_config(tmp_path)
    return tmp_path


def write_config(data: Path) -> None:
    rows = [(name, kind, *[weight] * len(CLASSES)) for name, (kind, weight) in TABLES.items()]
    pd.DataFrame(rows, columns=["Predictions", "Type", *CLASSES]).to_csv(data / "mix.csv", index=False)


def keep(data: Path, kind: str) -> None:
    """Leave only one kind of table in the configuration."""
    config = pd.read_csv(data / "mix.csv")
    config[config["Type"] == kind].to_csv(data / "mix.csv", index=False)


def run(data: Path, *flags: str) -> pd.DataFrame:
    ensemble.main([
        str(data / "mix.csv"), "--dataset", "test", "--submission", "1", "--rank", "0", "--meta_csv",
        str(data / "sample.csv"), "--cell_meta_csv_path", str(data / "cells.csv"), "--out_path", str(data / "out"),
        "--add_datetime", "0", "--batch_size", "100", *flags,
    ])  # fmt: skip
    return pd.read_csv(data / "out" / "ensemble_mix.csv")


def probs_of(data: Path, name: str) -> dict[tuple[str, int], np.ndarray]:
    table = pd.read_csv(data / "out" / name)
    return {(row["ImageID"], row["CellID"]): row[list(CLASSES)].to_numpy(float) for _, row in table.iterrows()}


def published(data: Path, key: tuple[str, int]) -> np.ndarray:
    """The rules of the write-up, in words for one cell."""
    cell = 0.4 * probs_of(data, "one.csv")[key] + 0.6 * probs_of(data, "two.csv")[key]
    image = probs_of(data, "image.csv")[key[0], 0]
    result = cell * image
    result[NEGATIVE] = max(cell[NEGATIVE], image[NEGATIVE])
    result[:NEGATIVE] *= 1 - result[NEGATIVE]
    return result


def test_the_published_rules(data: Path) -> None:
    table = run(data)
    assert list(zip(table["ImageID"], table["CellID"], strict=True)) == CELLS
    np.testing.assert_allclose(table[list(CLASSES)], [published(data, key) for key in CELLS], atol=1e-7)


def test_the_submission(data: Path) -> None:
    run(data)
    rows = list(read_rows(data / "out" / "submission_mix.csv"))
    assert [(row.id, row.width, row.height) for row in rows] == [(name, *size) for name, size in IMAGES.items()]
    assert rows[1].text == "0 1 empty"  # no cells: the sample's own placeholder
    for row in (rows[0], rows[2]):
        classes, scores, masks = parse_triples(row.text, 19, row.id)
        cells = [cell for image, cell in CELLS if image == row.id]
        assert classes.tolist() == list(range(19)) * len(cells)
        assert masks == [cell_mask(row.id, cell) for cell in cells for _ in range(19)]
        expected = np.concatenate([published(data, (row.id, cell)) for cell in cells])
        np.testing.assert_allclose(scores, expected, rtol=1e-5)


@pytest.mark.parametrize("kind", ["cell", "image"])
def test_one_kind_alone(data: Path, kind: str) -> None:
    keep(data, kind)
    table = run(data, "--negative_penalty", "0")
    if kind == "image":
        expected = [probs_of(data, "image.csv")[image, 0] for image, _ in CELLS]
    else:
        expected = [0.4 * probs_of(data, "one.csv")[key] + 0.6 * probs_of(data, "two.csv")[key] for key in CELLS]
    np.testing.assert_allclose(table[list(CLASSES)], expected, atol=1e-7)


def test_mean_without_negative_rules(data: Path) -> None:
    table = run(data, "--combine", "mean", "--negative", "own", "--negative_penalty", "0")
    cell, image = opinions(data)
    np.testing.assert_allclose(table[list(CLASSES)], (cell + image) / 2, atol=1e-7)


def test_cells_as_an_opinion_of_their_image(data: Path) -> None:
    config = pd.read_csv(data / "mix.csv")
    config["Type"] = ["cell", "bag", "image"]
    config.to_csv(data / "mix.csv", index=False)
    table = run(data, "--negative", "own", "--negative_penalty", "0")
    one, two, image = (probs_of(data, name) for name in TABLES)
    for row, key in zip(table[list(CLASSES)].to_numpy(), CELLS, strict=True):
        highest = np.max([two[other] for other in CELLS if other[0] == key[0]], axis=0)
        np.testing.assert_allclose(row, one[key] * (0.6 * highest + image[key[0], 0]) / 1.6, atol=1e-7)


def opinions(data: Path) -> tuple[np.ndarray, np.ndarray]:
    cell = [0.4 * probs_of(data, "one.csv")[key] + 0.6 * probs_of(data, "two.csv")[key] for key in CELLS]
    return np.array(cell), np.array([probs_of(data, "image.csv")[image, 0] for image, _ in CELLS])


def test_rules_for_single_classes(data: Path) -> None:
    flags = ["--combine", "weighted,3=mean,11=product", "--cell_weight", "0.6", "--negative", "product"]
    table = run(data, *flags)
    cell, image = opinions(data)
    expected = 0.6 * cell + 0.4 * image
    expected[:, 3] = (cell + image)[:, 3] / 2
    expected[:, 11] = (cell * image)[:, 11]
    expected[:, NEGATIVE] = [np.prod([1 - value for value in row[:NEGATIVE]]) for row in expected]
    expected[:, :NEGATIVE] *= 1 - expected[:, [NEGATIVE]]
    np.testing.assert_allclose(table[list(CLASSES)], expected, atol=1e-7)


def test_decay_ranks_the_cells_of_an_image_by_the_cell_models(data: Path) -> None:
    table = run(data, "--decay", "11=0.5,3=0", "--negative_penalty", "0")
    cell, image = opinions(data)
    expected = cell * image
    for name in ("a", "b"):
        own = [row for row, (other, _) in enumerate(CELLS) if other == name]
        for place, row in enumerate(sorted(own, key=lambda row: -cell[row, 11])):
            expected[row, 11] *= 0.5**place
        for row in sorted(own, key=lambda row: -cell[row, 3])[1:]:
            expected[row, 3] = 0
    expected[:, NEGATIVE] = np.maximum(cell, image)[:, NEGATIVE]
    np.testing.assert_allclose(table[list(CLASSES)], expected, atol=1e-7)
    keep(data, "image")
    with pytest.raises(UserError, match=r"--decay 11=0\.5 ranks an image's cells, but .*mix\.csv has no table of Type"):
        run(data, "--decay", "11=0.5")


def test_an_empty_group(tmp_path: Path) -> None:
    path = tmp_path / "mix.csv"
    path.write_text("Predictions,Type,Group,A\none.csv,cell,1,1\ntwo.csv,cell,,1\n")
    with pytest.raises(UserError, match=r"mix.csv row 3: the Group is empty; every row needs one"):
        ensemble.read_config(path, ["A"])


def test_border_weights(data: Path) -> None:
    before = run(data)
    cells = pd.read_csv(data / "cells.csv")
    with pytest.raises(UserError, match=r"cells\.csv lacks the column touches_border"):
        run(data, "--border_weight", "area")
    borders = {"touches_border": [0, 1, 0, 1, 1], "border_pixels": [0, 20, 0, 8, 20], "area": [400, 100, 300, 600, 0],
               "nucleus_area": [80, 60, 50, 10, 20], "nucleus_box": [100, 50, 80, 40, 80],
               "completeness": [1, 0.25, 1, 0.9, 0.5]}  # fmt: skip
    cells.assign(**borders).to_csv(data / "cells.csv", index=False)
    for how, factors in (
        ("none", [1, 1, 1, 1, 1]),
        ("area", [1, 0.25, 1, 1, 0]),
        ("nucleus", [1, 0.75, 1, 0.2, 0.25]),
        ("nucleus_box", [1, 0.5, 1, 0.5, 0.8]),
        ("completeness", [1, 0.25, 1, 0.9, 0.5]),
    ):
        table = run(data, "--border_weight", how)
        expected = before[list(CLASSES)].to_numpy() * np.array(factors)[:, None]
        np.testing.assert_allclose(table[list(CLASSES)], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--combine", "sum"], "--combine sum is not known; choose from: product, mean, weighted"),
        (["--combine", "mean,3=sum"], "--combine 3= sum is not known"),
        (["--combine", "mean,19=product"], "'19=product' must be CLASS=VALUE with a class 0 to 18"),
        (["--combine", "mean,product"], "'product' must be CLASS=VALUE"),
        (["--combine", "mean,3=mean,3=product"], "'3=product' must be CLASS=VALUE .* each once"),
        (["--combine", "product,18=mean"], "--combine 18=mean has no effect but with --negative own"),
        (["--cell_weight", "1.5"], r"--cell_weight 1\.5 must lie in 0\.\.1"),
        (["--decay", "11=2"], r"--decay 11=2: a factor in 0\.\.1 is right"),
        (["--decay", "11=-0.5"], r"--decay 11=-0\.5: a factor"),
        (["--decay", "0.5"], r"--decay: '0\.5' must be CLASS=VALUE"),
    ],
)
def test_bad_rules_are_refused(data: Path, flags: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run(data, *flags)
    assert not list((data / "out").glob("ensemble_*"))


def test_weights_are_for_each_class(data: Path) -> None:
    config = pd.read_csv(data / "mix.csv")
    config[CLASSES[3]] = [0, 5, 2.0]
    config.to_csv(data / "mix.csv", index=False)
    keep(data, "cell")
    table = run(data, "--negative_penalty", "0")
    np.testing.assert_allclose(table[CLASSES[3]], [probs_of(data, "two.csv")[key][3] for key in CELLS], atol=1e-7)


def test_ranks_instead_of_probabilities(data: Path) -> None:
    keep(data, "image")
    table = run(data, "--rank", "1", "--negative_penalty", "0")
    values = pd.read_csv(data / "out" / "image.csv")[list(CLASSES)].to_numpy()
    own = dict(zip(("a", "b", "empty"), (rankdata(values, axis=0) - 1) / 2, strict=True))
    np.testing.assert_allclose(table[list(CLASSES)], [own[image] for image, _ in CELLS], atol=1e-7)


def test_where_tables_are_looked_for(data: Path) -> None:
    expected = run(data)
    (data / "elsewhere").mkdir()
    for name in ("one.csv", "two.csv"):
        (data / "out" / name).rename(data / name)  # beside the configuration
    (data / "out" / "image.csv").rename(data / "elsewhere" / "image.csv")
    config = pd.read_csv(data / "mix.csv")
    config["Predictions"] = ["one.csv", "two.csv", str(data / "elsewhere" / "image.csv")]
    config.to_csv(data / "mix.csv", index=False)
    assert run(data).equals(expected)
    (data / "one.csv").rename(data / "elsewhere" / "one.csv")
    assert run(data, "--tables_path", str(data / "elsewhere")).equals(expected)


def test_datetime_in_the_names(data: Path) -> None:
    before = set((data / "out").iterdir())
    with pytest.raises(FileNotFoundError):
        run(data, "--add_datetime", "1")
    (table, submission) = sorted(set((data / "out").iterdir()) - before)
    assert table.match("ensemble_mix_????????_??????.csv")
    assert submission.match("submission_mix_????????_??????.csv")


def test_without_submission(data: Path) -> None:
    run(data, "--submission", "0")
    assert not (data / "out" / "submission_mix.csv").exists()


def write_truth(data: Path) -> Path:
    cells = pd.read_csv(data / "cells.csv").assign(Label=["0", "3|16", "0|5", "18", "16"])
    cells.to_csv(data / "truth.csv", index=False)
    with (data / "truth.csv").open("a") as file:
        file.write("empty+0,empty,0,6,6,,\n")
    return data / "truth.csv"


def test_its_score_is_evaluates(data: Path, capsys) -> None:
    truth = write_truth(data)
    sample = (data / "sample.csv").read_text().replace("0 1 empty", "")  # a placeholder would be a detection
    (data / "sample.csv").write_text(sample)
    run(data, "--truth", str(truth))
    said = capsys.readouterr().out.splitlines()
    evaluate.main(["--submission", str(data / "out" / "submission_mix.csv"), "--truth", str(truth)])
    scored = capsys.readouterr().out.splitlines()
    assert said[2:-1] == scored[:-1]
    assert said[-1].split()[-1] == scored[-1].split()[-1]


def test_out_of_fold_scores_what_the_tables_hold(data: Path, capsys) -> None:
    truth = write_truth(data)
    pd.DataFrame({"ID": [*IMAGES, "other"], "Label": ["0|5|18", "18", "0|3|16", "7"]}).to_csv(
        data / "train.csv", index=False
    )
    for name in TABLES:  # one fold has only image a
        table = pd.read_csv(data / "out" / name)
        table[table["ImageID"] == "a"].to_csv(data / "out" / name, index=False)
    flags = ["--dataset", "valid", "--submission", "0", "--meta_csv", str(data / "train.csv")]
    table = run(data, *flags, "--truth", str(truth))
    assert list(zip(table["ImageID"], table["CellID"], strict=True)) == [key for key in CELLS if key[0] == "a"]
    cells = table[["ImageID", "CellID"]].merge(pd.read_csv(data / "cells.csv"))
    probs = table[list(CLASSES)].to_numpy()
    alone, whole = (
        hpa.score_cells(cells, probs, images, truth)["AP"].iloc[-1] for images in (["a"], ["a", "b", "empty"])
    )
    said = capsys.readouterr().out
    assert "mix against" in said and float(said.split()[-1]) == pytest.approx(alone, abs=1e-4) and alone > whole + 0.01
    with pytest.raises(UserError, match=r"no row for b, 3"):
        run(data)


def test_score_against_image_labels(data: Path, capsys) -> None:
    labels = {"b": "0|5", "empty": "18", "a": "0|3|16"}
    pd.DataFrame(labels.items(), columns=["ID", "Label"]).to_csv(data / "train.csv", index=False)
    table = run(data, "--dataset", "valid", "--submission", "0", "--meta_csv", str(data / "train.csv"),
                "--truth", str(data / "train.csv"))  # fmt: skip
    highest = table.groupby("ImageID")[list(CLASSES)].max().reindex(list(labels), fill_value=0)
    scores = []
    for index, name in enumerate(CLASSES):
        target = [str(index) in label.split("|") for label in labels.values()]
        if any(target):
            scores.append(average_precision_score(target, highest[name]))
    assert capsys.readouterr().out.splitlines()[-1].endswith(f"{np.mean(scores):.4f}")


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("mix.csv", "two.csv", "three.csv", r"mix\.csv names the table 'three\.csv', which is not there: looked for"),
        ("mix.csv", "two.csv,cell", "two.csv,nucleus", r"row 3: Type 'nucleus' is not known; choose from: cell, image"),
        ("mix.csv", "Type", "Kind", "lacks the column Type"),
        ("mix.csv", CLASSES[7], "7:Golgi", f"lacks the column {CLASSES[7]}"),
        ("mix.csv", "image,1.0", "image,0", f"the image weights of {CLASSES[0]} sum to zero"),
        ("mix.csv", "cell,0.4", "cell,-0.4", f"row 2: the weight of {CLASSES[0]} is below zero"),
        ("mix.csv", "cell,0.4", "cell,", rf"row 2, column {CLASSES[0]}"),
        ("mix.csv", "two.csv,cell", "two.csv,image", "CellID not 0"),
        ("mix.csv", "image.csv,image", "image.csv,cell", r"image\.csv has no row for a, 1"),
        ("out/one.csv", "b,3,", "b,4,", r"one\.csv has no row for b, 3"),
        ("out/one.csv", "b,3,", "b,1,", r"one\.csv has the key ImageID, CellID = b, 1 more than once"),
        ("out/one.csv", "a,5,0", "a,5,nan0", r"one\.csv row 2, column 0:Nucleoplasm"),
        ("out/one.csv", "a,5,0", "a,5,7", "is not a probability"),
        ("out/image.csv", "b,0", "c,0", r"image\.csv has the image c, which .*sample\.csv lacks"),
        ("out/image.csv", "b,0", "b,1", "CellID not 0"),
        ("cells.csv", "b,3,9", "b,3,10", "image b has another size in sample_submission"),
        ("cells.csv", "b,3", "b,7", r"has no row for b, 7"),
        ("cells.csv", "a,2", "a,1", "ImageID, CellID = a, 1 more than once"),
        ("cells.csv", ",a,2", ",z,2", r"cells\.csv has the image z, which"),
        ("sample.csv", "PredictionString", "Prediction", "are right"),
    ],
)
def test_bad_input_is_refused(data: Path, file: str, old: str, new: str, message: str) -> None:
    edit(data / file, old, new)
    with pytest.raises(UserError, match=message):
        run(data)
    assert not list((data / "out").glob("submission_*"))


def test_a_configuration_without_rows(data: Path) -> None:
    (data / "mix.csv").write_text((data / "mix.csv").read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match=r"mix\.csv names no table"):
        run(data)


def test_a_submission_needs_the_sample(data: Path) -> None:
    pd.DataFrame({"ID": list(IMAGES), "Label": "0"}).to_csv(data / "train.csv", index=False)
    with pytest.raises(UserError, match=r"a submission is made from sample_submission\.csv, and"):
        run(data, "--meta_csv", str(data / "train.csv"))


def test_an_empty_cells_table(data: Path) -> None:
    (data / "cells.csv").write_text((data / "cells.csv").read_text().splitlines()[0] + "\n")
    with pytest.raises(UserError, match="has no cell"):
        run(data)


def test_the_shipped_configuration() -> None:
    folder = Path(ensemble.__file__).parent / "ensemble_configs"
    config = pd.read_csv(folder / "ensemble_kaggle016.csv")
    assert config.columns.tolist() == ["Predictions", "Type", *CLASSES]
    assert config["Type"].tolist() == ["cell", "cell", "image"]
    assert (config[list(CLASSES)].to_numpy() == np.array([[0.4], [0.6], [1.0]])).all()


def test_groups_have_the_same_say(tmp_path):
    """Two tables of one group and one of another: .25, .25, .5; the mean of the logits; images of one wanted cell."""
    classes = ("A", "B")
    probs = {"one": 0.9, "two": 0.5, "three": 0.2, "image": 0.6}
    for name, p in probs.items():
        cell_ids = [0, 0] if name == "image" else [1, 1]
        table = pd.DataFrame({"ImageID": ["x.png", "y.png"], "CellID": cell_ids, "A": p, "B": 1 - p})
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    config = tmp_path / "config.csv"
    config.write_text(
        "Predictions,Type,Group,A,B\none.csv,cell,big,1,1\ntwo.csv,cell,big,1,1\nthree.csv,cell,small,1,1\n"
        "image.csv,image,only,1,1\n"
    )
    (tmp_path / "test.csv").write_text("trustii_id,NAME\n1,x.png\n2,y.png\n3,y.png\n")
    cells = pd.DataFrame({"Image": ["x.png+1", "y.png+1"], "ImageID": ["x.png", "y.png"], "CellID": 1})
    cells = cells.assign(ImageWidth=9, ImageHeight=9, PredictionString="", x1=1, y1=1, x2=4, y2=4, score=0.5, keep=1)
    cells.to_csv(tmp_path / "cells.csv", index=False)
    flags = [
        str(config), "--competition", "cytologia", "--classes", ",".join(classes),
        "--meta_csv", str(tmp_path / "test.csv"),
        "--cell_meta_csv_path", str(tmp_path / "cells.csv"), "--out_path", str(tmp_path),
    ]  # fmt: skip
    ensemble.main([*flags, "--average", "probs"])
    cell = 0.25 * 0.9 + 0.25 * 0.5 + 0.5 * 0.2
    found = pd.read_csv(tmp_path / "ensemble_config.csv")["A"]
    np.testing.assert_allclose(found, [0.457 * cell + 0.543 * 0.6, cell], rtol=1e-5)
    ensemble.main([*flags, "--combine", "weighted", "--cell_weight", "1", "--submission", "1"])
    odds = (9**0.5 * 1**0.5) ** 0.5 * (0.2 / 0.8) ** 0.5
    found = pd.read_csv(tmp_path / "ensemble_config.csv")["A"]
    np.testing.assert_allclose(found, odds / (1 + odds), rtol=1e-5)
    assert pd.read_csv(tmp_path / "submission_config.csv")["NAME"].tolist() == ["x.png", "y.png", "y.png"]
    # Image models that say of each class by itself whether it is there: their own logits, which do not add up to 1.
    (tmp_path / "image.csv").write_text("ImageID,CellID,A,B\nx.png,0,0.9,0.8\ny.png,0,0.9,0.8\n")
    (tmp_path / "other.csv").write_text("ImageID,CellID,A,B\nx.png,0,0.2,0.6\ny.png,0,0.2,0.6\n")
    config.write_text("Predictions,Type,A,B\nimage.csv,image,1,1\nother.csv,image,1,1\n")
    ensemble.main([*flags, "--average", "logits"])
    found = pd.read_csv(tmp_path / "ensemble_config.csv")[["A", "B"]].iloc[0]
    np.testing.assert_allclose(found, [0.6, 6**0.5 / (1 + 6**0.5)], rtol=1e-5)  # odds 9 x 1/4, 4 x 3/2, their roots
