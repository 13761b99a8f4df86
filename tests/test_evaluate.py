"""evaluate.py against the competition's words carried out on pixels, and what it refuses."""

import base64
import re
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import evaluate
from cells.masks import decode_mask, decode_rle, decode_rles, encode_mask
from cells.triples import COLUMNS, format_triples, parse_triples, read_rows, write_rows
from common.errors import UserError
from competitions import hpa

SIZE = {"ImageWidth": 24, "ImageHeight": 20}


def rectangle(y: int, x: int, height: int, width: int) -> str:
    mask = np.zeros((SIZE["ImageHeight"], SIZE["ImageWidth"]), bool)
    mask[y : y + height, x : x + width] = True
    return encode_mask(mask)


def random_case(generator: np.random.Generator) -> tuple[pd.DataFrame, list[tuple]]:
    """A truth table and a submission's rows: rectangles and disturbed copies, equal scores, repeated masks."""
    truth, rows = [], []
    for image in range(int(generator.integers(1, 4))):
        name = f"image{image}"
        boxes = [(*generator.integers(0, 14, 2), *generator.integers(2, 9, 2)) for _ in range(generator.integers(1, 5))]
        for cell, box in enumerate(boxes, start=1):
            label = "|".join(map(str, generator.choice(19, generator.integers(0, 4), replace=False)))
            truth.append({"ImageID": name, "CellID": cell, **SIZE, "PredictionString": rectangle(*box), "Label": label})
        triples = []
        for _ in range(generator.integers(0, 30)):
            y, x, height, width = boxes[generator.integers(len(boxes))]
            moved = rectangle(y + generator.integers(2), x, height + generator.integers(2), width)
            triples.append(f"{generator.integers(19)} {generator.integers(5) / 4} {moved}")
        rows.append((name, *SIZE.values(), " ".join(triples)))
    truth[0]["Label"] = truth[0]["Label"] or "4"  # something to look for
    return pd.DataFrame(truth), rows


def oracle(truth: pd.DataFrame, rows: list[tuple]) -> float:
    """The score with masks as sets of pixels and loops over everything."""
    pixels = {text: set(np.flatnonzero(decode_mask(text, 20, 24)).tolist()) for text in truth["PredictionString"]}
    scores = []
    for name in range(19):
        listed = []
        positives = 0
        for image_id, _, _, text in rows:
            own = truth[truth["ImageID"] == image_id]
            true = own["PredictionString"][[str(name) in label.split("|") for label in own["Label"]]].tolist()
            positives += len(true)
            parts = text.split()
            triples = [parts[start : start + 3] for start in range(0, len(parts), 3) if int(parts[start]) == name]
            used = set()
            for _, score, mask in sorted(triples, key=lambda triple: -float(triple[1])):
                found = set(np.flatnonzero(decode_mask(mask, 20, 24)).tolist())
                overlaps = [len(found & pixels[t]) / len(found | pixels[t]) for t in true]
                best = overlaps.index(max(overlaps)) if overlaps else None
                hit = best is not None and overlaps[best] >= 0.6 and best not in used
                used |= {best} if hit else set()
                listed.append((float(score), hit))
        if positives:
            listed.sort(key=lambda pair: -pair[0])
            found = np.cumsum([hit for _, hit in listed]).tolist()
            precision = [hits / place for place, hits in enumerate(found, start=1)]
            steps = np.diff([0, *found]) / positives
            scores.append(sum(step * max(precision[place:]) for place, step in enumerate(steps)))
    return float(np.mean(scores))


def write(folder: Path, truth: pd.DataFrame, rows: list[tuple]) -> tuple[Path, Path]:
    write_rows(folder / "submission.csv", rows)
    truth.to_csv(folder / "truth.csv", index=False)
    return folder / "submission.csv", folder / "truth.csv"


@pytest.mark.parametrize("seed", range(40))
def test_score_is_the_oracles(tmp_path: Path, seed: int) -> None:
    truth, rows = random_case(np.random.default_rng(seed))
    table = hpa.score(*write(tmp_path, truth, rows))
    assert table["AP"].iloc[-1] == pytest.approx(oracle(truth, rows), abs=1e-12)


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """Two images; class 0: two cells, found; class 5: one cell, found in second place; class 18: one, not found."""
    a, b, c = rectangle(0, 0, 6, 6), rectangle(0, 10, 6, 6), rectangle(10, 0, 10, 10)
    truth = pd.DataFrame(
        [("one", 1, a, "0|5"), ("one", 2, b, "0"), ("two", 1, c, "18")],
        columns=["ImageID", "CellID", "PredictionString", "Label"],
    ).assign(**SIZE)
    rows = [("one", 24, 20, f"0 .9 {a} 0 .8 {b} 5 .7 {b} 5 .6 {a}"), ("two", 24, 20, f"0 .1 {c} 17 1 {c}")]
    return write(tmp_path, truth, rows)


def test_by_hand(case: tuple[Path, Path]) -> None:
    table = hpa.score(*case).set_index("Class")
    assert table["AP"].to_dict() == pytest.approx(
        {name: float("nan") for name in hpa.CLASSES}
        | {"0:Nucleoplasm": 1.0, "5:Nuclear bodies": 0.5, "18:Negative": 0.0, "mean": 0.5},
        nan_ok=True,
    )
    assert table.loc["mean", ["Truths", "Detections", "Hits"]].tolist() == [4, 6, 3]
    assert table.loc["17:Vesicles and punctate cytosolic patterns", "Detections"] == 1


def test_the_script_writes_a_table_and_a_picture(case: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    evaluate.main(["--submission", str(case[0]), "--truth", str(case[1]), "--out_path", str(out)])
    shown = capsys.readouterr().out
    assert "mAP at mask IoU 0.6: 0.5000" in shown
    assert "5:Nuclear bodies 0.5000" in shown
    table = pd.read_csv(out / "score_submission.csv")
    assert table["Class"].tolist() == [*hpa.CLASSES, "mean"]
    assert table["AP"].iloc[-1] == 0.5
    with Image.open(out / "score_submission.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10
    assert sorted(path.name for path in out.iterdir()) == ["score_submission.csv", "score_submission.png"]


def test_several_submissions(case: tuple[Path, Path], tmp_path: Path, capsys) -> None:
    better = tmp_path / "better.csv"
    better.write_text(case[0].read_text().replace(",18 ", ",0 ").replace(",0 .1 ", ",18 .1 "))
    flags = ["--submission", str(case[0]), str(better), "--truth", str(case[1])]
    evaluate.main([*flags, "--names", "first step", "second step"])
    assert capsys.readouterr().out.splitlines() == ["first step   0.5000", "second step  0.8333"]
    assert len(list(tmp_path.glob("score_*"))) == 4
    with pytest.raises(UserError, match="1 names for 2 submissions"):
        evaluate.main([*flags, "--names", "one"])
    with pytest.raises(UserError, match="two submissions of one name"):
        evaluate.main(["--submission", str(case[0]), str(case[0]), *flags[3:], "--out_path", str(tmp_path)])


def test_overlap_of_exactly_six_tenths_is_a_hit(tmp_path: Path) -> None:
    columns = ["ImageID", "CellID", "PredictionString", "Label"]
    truth = pd.DataFrame([("one", 1, rectangle(0, 0, 1, 5), "3")], columns=columns)
    for width, expected in ((3, 1.0), (2, 0.0)):
        paths = write(tmp_path, truth.assign(**SIZE), [("one", 24, 20, f"3 1 {rectangle(0, 0, 1, width)}")])
        assert hpa.score(*paths)["AP"].iloc[-1] == expected


def test_a_placeholder_counts_as_a_detection(tmp_path: Path) -> None:
    mask, nothing = rectangle(0, 0, 5, 5), rectangle(0, 0, 0, 0)
    truth = pd.DataFrame(
        [("one", 1, mask, "0"), ("two", 0, "", "")], columns=["ImageID", "CellID", "PredictionString", "Label"]
    ).assign(**SIZE)
    paths = write(tmp_path, truth, [("one", 24, 20, f"0 .5 {mask}"), ("two", 24, 20, f"0 1 {nothing}")])
    assert hpa.score(*paths)["AP"].iloc[-1] == 0.5


def test_no_triples_is_no_detection(case: tuple[Path, Path]) -> None:
    write_rows(case[0], [("one", 24, 20, ""), ("two", 24, 20, "")])
    assert hpa.score(*case)["AP"].iloc[-1] == 0


def edit(path: Path, change: Callable[[str], str]) -> None:
    path.write_text(change(path.read_text()))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("two,24", "three,24"), "row 3.*does not know the image three"),
        (lambda text: text.replace("two,24", "one,24"), "row 3.*image one is there a second time"),
        (lambda text: text[: text.index("two,")], "lacks the image two"),
        (lambda text: text.replace("two,24,20", "two,20,24"), "two has 20 x 24 pixels, but 24 x 20"),
        (lambda text: text.replace("0 .9 ", "0 .9 .9 "), "row 2.*13 parts"),
        (lambda text: text.replace("0 .9 ", "x .9 "), "row 2.*class, a confidence"),
        (lambda text: text.replace("0 .9 ", "0 nan "), "row 2.*triple 1 begins with '0 nan'"),
        (lambda text: text.replace("0 .9 ", "19 .9 "), "row 2.*'19 .9'.*class 0 to 18"),
        (lambda text: text.replace("0 .9 ", "-1 .9 "), "class 0 to 18"),
        (lambda text: text.replace("0 .9 ", f"{10**30} .9 "), "class, a confidence"),
        (lambda text: text.replace("0 .9 e", "0 .9 f"), r"row 2 \(one\): mask text"),
        (lambda text: text.replace("PredictionString", "Prediction"), "lacks the column PredictionString"),
        (lambda text: text.replace("two,24,20", "two,24"), "row 3 has 3 fields"),
        (lambda text: text.replace("two,24,20", "two,24,x"), "'x' must be whole numbers"),
        (lambda text: "", "lacks the column ID"),
    ],
)
def test_a_bad_submission_is_refused(case: tuple[Path, Path], change, message: str) -> None:
    edit(case[0], change)
    with pytest.raises(UserError, match=message):
        evaluate.main(["--submission", str(case[0]), "--truth", str(case[1])])
    assert not list(case[0].parent.glob("score_*"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("0|5", "0|19"), "row 2.*class indices 0 to 18"),
        (lambda text: text.replace("Label", "Labels"), "lacks the column Label"),
        (lambda text: text.replace("one,2", "one,1"), "ImageID, CellID = one, 1 more than once"),
        (lambda text: text.replace(",18,", ",,").replace(",0|5,", ",,").replace(",0,", ",,"), "no labelled row"),
    ],
)
def test_a_bad_truth_is_refused(case: tuple[Path, Path], change, message: str) -> None:
    edit(case[1], change)
    with pytest.raises(UserError, match=message):
        hpa.score(*case)


def test_missing_files_and_unknown_competition(case: tuple[Path, Path], tmp_path: Path) -> None:
    for arguments in (
        ["--submission", str(tmp_path / "none.csv"), "--truth", str(case[1])],
        ["--submission", str(case[0]), "--truth", str(tmp_path / "none.csv")],
        ["--submission", str(case[0]), "--truth", str(case[1]), "--competition", "chess"],
    ):
        with pytest.raises(UserError, match=r"does not exist|choose from: hpa"):
            evaluate.main(arguments)


def test_triples_come_back() -> None:
    masks, probs = ["eN+/=", "abc"], np.array([[1.0, 0.0, 0.123456789], [1e-4, 9.9e-5, 1.5e-7]])
    text = format_triples(masks, probs)
    assert text == (
        "0 1 eN+/= 1 0.0000000000 eN+/= 2 0.123457 eN+/= 0 0.0001 abc 1 0.0000990000 abc 2 0.0000001500 abc"
    )
    classes, scores, texts = parse_triples(text, 3, "here")
    assert classes.tolist() == [0, 1, 2] * 2
    np.testing.assert_allclose(scores, probs.ravel(), rtol=1e-5)
    assert texts == ["eN+/="] * 3 + ["abc"] * 3


def test_printed_confidences_keep_their_order() -> None:
    probs = np.sort(np.random.default_rng(0).random(2000) ** 12)
    printed = parse_triples(format_triples(["m"] * len(probs), probs[:, None]), 1, "")[1]
    assert (np.diff(printed) >= 0).all()
    assert (np.diff(printed)[probs[1:] > 1e-6] > 0).mean() > 0.99


def test_rows_come_back_with_awkward_ids(tmp_path: Path) -> None:
    rows = [('a,"b"', 3, 4, "0 1 m"), ("NA", 3, 4, ""), ("007", 5, 6, "0 1 " + "x" * 300_000)]
    write_rows(tmp_path / "s.csv", rows)
    assert [tuple(row)[:4] for row in read_rows(tmp_path / "s.csv")] == rows
    assert pd.read_csv(tmp_path / "s.csv", dtype=str, keep_default_na=False).columns.tolist() == COLUMNS
    edit(tmp_path / "s.csv", lambda text: text + '\n"open')
    with pytest.raises(UserError, match="cannot be read as a submission"):
        list(read_rows(tmp_path / "s.csv"))


def outcome(function: Callable, *arguments) -> list[dict] | str:
    try:
        return function(*arguments)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("seed", range(60))
def test_masks_checked_together_as_one_by_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    height, width = generator.integers(1, 30, 2).tolist()
    density = generator.choice([0, 0.1, 0.5, 1])
    texts = [encode_mask(generator.random((height, width)) < density) for _ in range(generator.integers(0, 6))]
    if texts and seed % 3:  # damage one of them
        place = generator.integers(len(texts))
        counts = bytearray(zlib.decompress(base64.b64decode(texts[place])))
        counts[generator.integers(len(counts))] = generator.integers(40, 120)
        counts += bytes(generator.integers(48, 112, generator.integers(2), dtype=np.uint8))
        texts[place] = base64.b64encode(zlib.compress(bytes(counts))).decode()
    one_by_one = outcome(lambda: [decode_rle(text, height, width) for text in texts])
    assert outcome(decode_rles, texts, height, width) == one_by_one


def test_the_boxes_of_a_cells_table(tmp_path, capsys):
    """Two true cells, found exactly, one of them with the wrong class; a third find is nothing."""
    rows = ["NAME,x1,y1,x2,y2,class", "a.png,0,0,10,10,A", "a.png,50,50,70,70,B", "b.png,0,0,0,0,"]
    (tmp_path / "truth.csv").write_text("\n".join(rows))
    cells = pd.DataFrame({"Image": ["a.png+1", "a.png+2", "b.png+1"], "ImageID": ["a.png", "a.png", "b.png"]})
    cells = cells.assign(CellID=[1, 2, 1], ImageWidth=99, ImageHeight=99, PredictionString="", keep=1)
    cells = cells.assign(x1=[0, 50, 5], y1=[0, 50.0, 5], x2=[10, 70, 9], y2=[10, 70, 9], score=[0.9, 0.8, 0.1])
    cells.to_csv(tmp_path / "cells.csv", index=False)
    probs = pd.DataFrame({"ImageID": cells["ImageID"], "CellID": cells["CellID"], "A": [0.9, 0.6, 0.5], "B": 0.2})
    probs.to_csv(tmp_path / "probs.csv", index=False)
    flags = ["--competition", "cytologia", "--classes", "A,B", "--truth", str(tmp_path / "truth.csv")]
    flags += ["--cell_meta_csv_path", str(tmp_path / "cells.csv"), "--name", "mine"]
    evaluate.main([*flags, "--probabilities", str(tmp_path / "probs.csv")])
    printed = capsys.readouterr().out
    assert "any class AP50: 1.0000" in printed and "with 1, 3, 10 detections a cell: 1.0000, 1.0000, 1.0000" in printed
    assert "classes of the 2 of 2 true cells that are found: accuracy 0.5000, macro-F1 0.3333" in printed
    table = pd.read_csv(tmp_path / "score_mine.csv").set_index("Class")
    assert table["AP50"][["A", "B"]].tolist() == pytest.approx([1, 0.5])  # B's hit comes after a miss
    assert (tmp_path / "score_mine.png").exists()
    for own in (cells, cells.assign(Label="")):  # a finder that tells no classes apart
        own.to_csv(tmp_path / "cells.csv", index=False)
        evaluate.main(flags)
        assert "which class the cells have is not known" in capsys.readouterr().out
        assert pd.read_csv(tmp_path / "score_mine.csv")["Class"].tolist() == ["any class", "mean"]
    for label in ("LY", "0|1", "99", "-1", "1.5"):
        cells.assign(Label=["0", label, "1"]).to_csv(tmp_path / "cells.csv", index=False)
        with pytest.raises(UserError, match=rf"cells.csv: the Label '{re.escape(label)}' of a.png, cell 2, must be"):
            evaluate.main(flags)
    with pytest.raises(UserError, match="--names is for submissions; leave it out"):
        evaluate.main([*flags, "--names", "mine"])
    with pytest.raises(UserError, match="--probabilities is for a cells table; leave it out"):
        evaluate.main([*flags[:6], "--submission", "s.csv", "--probabilities", "absent.csv"])
    with pytest.raises(UserError, match="give either --submission or --cell_meta_csv_path"):
        evaluate.main(flags[:6])
