"""Box scores against pycocotools, scikit-learn, loops, and numbers worked out by hand."""

import contextlib
import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import f1_score

from metrics import box_class, box_map

BOX = ["x1", "y1", "x2", "y2"]
SEEDS = st.integers(0, 2**32 - 1)


def table(rows: list[tuple], scores: bool = False) -> pd.DataFrame:
    """Rows of image, class, box (and score)."""
    return pd.DataFrame(rows, columns=["ImageID", "class", *BOX, *(["score"] if scores else [])])


def random_tables(seed: int, images: int, classes: int, levels: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Truths and detections near them, with doubled boxes, tied scores, and images that only one table has."""
    generator = np.random.default_rng(seed)
    names = [f"image{index}" for index in generator.permutation(images)]

    def boxes(count: int) -> np.ndarray:
        low = generator.integers(0, 60, (count, 2)) / 4
        return np.hstack([low, low + generator.integers(8, 40, (count, 2)) / 4])

    true, count = boxes(generator.integers(1, 40)), generator.integers(0, 120)
    truth = pd.DataFrame(true, columns=BOX).assign(ImageID=generator.choice(names, len(true)))
    truth["class"] = generator.integers(classes, size=len(true))
    origin = generator.integers(len(true), size=count)
    guess = np.where(
        generator.random((count, 1)) < 0.7, true[origin] + generator.integers(-4, 5, (count, 4)) / 4, boxes(count)
    )
    found = pd.DataFrame(guess, columns=BOX).assign(score=generator.integers(1, levels + 1, count) / levels)
    found["ImageID"] = np.where(
        generator.random(count) < 0.8, truth["ImageID"].to_numpy()[origin], generator.choice(names, count)
    )
    found["class"] = np.where(
        generator.random(count) < 0.8, truth["class"].to_numpy()[origin], generator.integers(classes, size=count)
    )
    return truth, found


def coco_rows(data: pd.DataFrame, names: list[str]) -> list[dict]:
    rows = []
    for index, row in enumerate(data.to_dict("records"), start=1):
        size = [row["x2"] - row["x1"], row["y2"] - row["y1"]]
        rows.append({"id": index, "image_id": names.index(row["ImageID"]), "category_id": row["class"],
                     "bbox": [row["x1"], row["y1"], *size], "area": size[0] * size[1], "iscrowd": 0,
                     "score": row.get("score", 1)})  # fmt: skip
    return rows


def cocoeval(truth: pd.DataFrame, found: pd.DataFrame, classes: int, max_dets: int) -> np.ndarray:
    """pycocotools' AP at each threshold and class, (10, classes)."""
    names = sorted({*truth["ImageID"], *found["ImageID"]})
    with contextlib.redirect_stdout(io.StringIO()):
        true = COCO()
        true.dataset = {"images": [{"id": index} for index in range(len(names))], "info": {},
                        "annotations": coco_rows(truth, names),
                        "categories": [{"id": index} for index in range(classes)]}  # fmt: skip
        true.createIndex()
        judge = COCOeval(true, true.loadRes(coco_rows(found, names)), "bbox")
        judge.params.maxDets = [max_dets]
        judge.evaluate()
        judge.accumulate()
    precision = judge.eval["precision"][:, :, :, 0, 0]
    return np.where(precision[:, 0] < 0, np.nan, precision.mean(axis=1))


@given(SEEDS, st.integers(1, 8), st.integers(1, 4), st.sampled_from([2, 10, 10**6]), st.sampled_from([1, 3, 100]))
@settings(max_examples=60, deadline=None)
def test_average_precision_is_pycocotools(seed: int, images: int, classes: int, levels: int, max_dets: int) -> None:
    truth, found = random_tables(seed, images, classes, levels)
    ours = box_map.coco_ap(truth, found, classes, max_dets)
    if len(found):  # the package cannot load no detections
        np.testing.assert_allclose(ours, cocoeval(truth, found, classes, max_dets), atol=1e-9, rtol=0)
    else:
        assert np.nansum(ours) == 0


def test_average_precision_does_not_hang_on_the_order_of_images() -> None:
    truth, found = random_tables(5, 6, 3, 3)
    mixed = found.sort_values("ImageID", ascending=False, kind="stable")
    np.testing.assert_array_equal(box_map.coco_ap(truth, found, 3), box_map.coco_ap(truth[::-1], mixed, 3))


def test_average_precision_by_hand() -> None:
    truth = table([("a", 0, 0, 0, 10, 10), ("a", 0, 20, 0, 30, 10), ("b", 1, 0, 0, 10, 10)])
    found = table([("a", 0, 0, 0, 10, 6, 0.9), ("c", 0, 0, 0, 9, 9, 0.8), ("a", 0, 20, 0, 30, 10, 0.7)], scores=True)
    # class 0 at .50 to .60: a hit, a miss, a hit: precision 1 up to recall .5 (51 points), then 2/3 (50 points);
    # above, the first is a miss too: precision 1/3 up to recall .5
    low, high = (51 + 50 * 2 / 3) / 101, 51 / 3 / 101
    scores = box_map.ap_table(["x", "y", "z"], truth, found)
    assert scores["AP50"][0] == pytest.approx(low) and scores["AP"][0] == pytest.approx((3 * low + 7 * high) / 10)
    assert scores["AP"][1] == 0 and np.isnan(scores["AP"][2])
    assert scores["AP"][3] == pytest.approx(scores["AP"][0] / 2) and scores["Class"][3] == "mean"
    assert scores["Truths"].tolist() == [2, 1, 0, 3] and scores["Detections"].tolist() == [3, 0, 0, 3]
    cell = box_map.ap_table(["cell"], truth.assign(**{"class": 0}), found.assign(**{"class": 0}))["AP50"]
    assert cell[0] == pytest.approx((34 * 1 + 33 * 2 / 3) / 101)  # the same hits, of three truths


def test_truth_against_itself_and_against_nothing() -> None:
    truth, _ = random_tables(1, 5, 3, 5)
    truth = truth.drop_duplicates()
    perfect = box_map.ap_table("abc", truth, truth.assign(score=1.0))
    assert perfect["AP"].iloc[-1] == perfect["AP50"].iloc[-1] == 1
    nothing = box_map.ap_table("abc", truth, truth.assign(score=1.0).iloc[:0])
    assert nothing["AP"].iloc[-1] == 0


def test_more_detections_count_when_asked() -> None:
    truth = table([("a", 0, 20 * index, 0, 20 * index + 10, 10) for index in range(150)])
    found = truth.assign(score=0.5)
    assert box_map.coco_ap(truth, found, 1)[0, 0] == pytest.approx(67 / 101)  # recalls 0 to .66 of 100 in 150
    assert box_map.coco_ap(truth, found, 1, max_dets=150)[0, 0] == 1


def test_centre_recall() -> None:
    truth = table([("a", 0, 0, 0, 100, 100), ("a", 1, 200, 0, 300, 100), ("b", 0, 0, 0, 100, 40)])
    found = table(
        [("a", 0, 400, 0, 500, 100, 0.9), ("a", 0, 410, 0, 510, 100, 0.8), ("a", 5, 50, 0, 150, 100, 0.7),
         ("a", 0, 251, 0, 351, 100, 0.6), ("b", 0, 20, 0, 120, 40, 0.2), ("c", 0, 0, 0, 100, 100, 1)], scores=True
    )  # fmt: skip
    # a: 2 looked at, both wrong; then 4 or all: the first truth has one exactly 50 px away, the second one 51 px away.
    # b: 20 px away is half the shorter side.
    assert box_map.centre_recall(truth, found, (1, 2, 10)) == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert box_map.centre_recall(truth, found.iloc[:0]).tolist() == [0, 0, 0]
    assert np.isnan(box_map.centre_recall(truth.iloc[:0], found)).all()


def slow_class_score(truth: pd.DataFrame, found: pd.DataFrame) -> float:
    """The score box by box, in plain Python."""
    overlaps, guesses = [], []
    for true in truth.to_dict("records"):
        best, guess = -1.0, -1
        for other in found.to_dict("records"):
            if other["ImageID"] != true["ImageID"]:
                continue
            width = min(true["x2"], other["x2"]) - max(true["x1"], other["x1"])
            height = min(true["y2"], other["y2"]) - max(true["y1"], other["y1"])
            common = max(width, 0) * max(height, 0)
            union = sum((row["x2"] - row["x1"]) * (row["y2"] - row["y1"]) for row in (true, other)) - common
            hull = (max(true["x2"], other["x2"]) - min(true["x1"], other["x1"])) * (
                max(true["y2"], other["y2"]) - min(true["y1"], other["y1"]))  # fmt: skip
            value = common / union - (hull - union) / hull
            if value > best:
                best, guess = value, other["class"]
        overlaps.append(best)
        guesses.append(guess)
    labels = sorted({*truth["class"], *guesses} - {-1})
    macro = f1_score(truth["class"], guesses, labels=labels, average="macro", zero_division=0)
    return 0.2 * (np.mean(overlaps) + 1) / 2 + 0.8 * macro


@given(SEEDS, st.integers(1, 8), st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_class_score_is_the_slow_one(seed: int, images: int, classes: int) -> None:
    truth, found = random_tables(seed, images, classes, 5)
    scores = box_class.score_table([str(index) for index in range(classes)], truth, found)
    assert scores["Score"].iloc[-1] == pytest.approx(slow_class_score(truth, found), abs=1e-12)
    shuffled = truth.sample(frac=1, random_state=0)
    assert box_class.score_table(list(range(classes)), shuffled, found)["Score"].iloc[-1] == pytest.approx(
        scores["Score"].iloc[-1]
    )


def test_class_score_by_hand() -> None:
    truth = table([("a", 0, 0, 0, 2, 2), ("a", 1, 1, 1, 3, 3), ("b", 1, 0, 0, 4, 4), ("c", 2, 0, 0, 1, 1)])
    found = table([("a", 0, 0, 0, 2, 2), ("b", 1, 0, 0, 4, 4), ("d", 3, 0, 0, 1, 1)])
    # a's two truths share a prediction; c has none; d's is never looked at, so class 3 is not guessed
    scores = box_class.score_table("wxyz", truth, found)
    overlaps = [1, 1 / 7 - 2 / 9, 1, -1]
    assert scores["F1"][:3].tolist() == pytest.approx([2 / 3, 2 / 3, 0]) and np.isnan(scores["F1"][3])
    assert scores["GIoU"].tolist() == pytest.approx(
        [1, np.mean(overlaps[1:3]), -1, np.nan, np.mean(overlaps)], nan_ok=True
    )
    assert scores["Score"].iloc[-1] == pytest.approx(0.2 * (np.mean(overlaps) + 1) / 2 + 0.8 * 4 / 9)
    assert scores["Truths"].tolist() == [1, 2, 1, 0, 4] and scores["Guesses"].tolist() == [2, 1, 0, 0, 3]


def test_class_score_of_truth_and_of_nothing() -> None:
    truth, _ = random_tables(3, 4, 3, 5)
    truth = truth.drop_duplicates(["ImageID", *BOX])
    assert box_class.score_table("abc", truth, truth)["Score"].iloc[-1] == 1
    assert box_class.score_table("abc", truth, truth.iloc[:0])["Score"].iloc[-1] == 0
