"""The metrics against scikit-learn, against numbers worked out by hand, and against loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from metrics import classification, detection_map
from metrics.detection_map import DetectionMAP, match
from tasks import classify


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 5), st.sampled_from([2, 10, 10**6]))
@settings(max_examples=60, deadline=None)
def test_average_precision_is_scikit_learns(seed: int, rows: int, classes: int, levels: int) -> None:
    generator = np.random.default_rng(seed)
    probs = (generator.integers(levels, size=(rows, classes)) / levels).astype(np.float32)  # few levels: many ties
    targets = generator.integers(2, size=(rows, classes))
    ours = classification.average_precision(probs, targets)
    for index in range(classes):
        if targets[:, index].any():
            assert ours[index] == pytest.approx(average_precision_score(targets[:, index], probs[:, index]), abs=1e-12)
        else:
            assert np.isnan(ours[index])


def test_average_precision_by_hand() -> None:
    probs = np.array([[0.9], [0.8], [0.8], [0.1]])
    targets = np.array([[0], [1], [0], [1]])
    # at .8: recall 1/2, precision 1/3; at .1: recall 1, precision 2/4
    assert classification.average_precision(probs, targets)[0] == pytest.approx(1 / 2 * 1 / 3 + 1 / 2 * 2 / 4)


@pytest.mark.parametrize(
    ("probs", "targets"), [(np.zeros((3, 2)), np.zeros((2, 3))), (np.zeros(3), np.zeros(3)), ([[np.nan]], [[1]])]
)
def test_average_precision_refuses(probs, targets) -> None:
    with pytest.raises(ValueError):
        classification.average_precision(probs, targets)


def test_average_precision_of_no_rows_is_nan() -> None:
    assert np.isnan(classification.average_precision(np.zeros((0, 2)), np.zeros((0, 2)))).all()


def test_match_by_hand() -> None:
    overlaps = np.array([[0.7, 0.65], [0.9, 0.0], [0.0, 0.6], [0.0, 0.59], [0.0, 0.7]])
    scores = np.array([0.9, 0.8, 0.3, 0.9, 0.4])
    # 0 takes truth 0; 3 reaches nothing; 1 comes too late for truth 0; 4 takes truth 1; 2 comes too late
    assert match(scores, overlaps, 0.6).tolist() == [True, False, False, False, True]


def test_a_detection_does_not_turn_to_its_second_best_truth() -> None:
    overlaps = np.array([[0.9, 0.0], [0.8, 0.7]])
    assert match(np.array([0.9, 0.8]), overlaps, 0.6).tolist() == [True, False]


def test_equal_scores_go_in_the_order_given() -> None:
    assert match(np.array([0.5, 0.5]), np.array([[0.7], [0.9]]), 0.6).tolist() == [True, False]


@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0)])
def test_match_without_detections_or_truths(shape: tuple[int, int]) -> None:
    assert not match(np.zeros(shape[0]), np.zeros(shape), 0.6).any()


def test_detection_average_precision_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    hits = np.array([True, False, True, True, False])
    # precision 1, 1/2, 2/3, 3/4, 3/5: the envelope is 1 up to recall 1/4, then 3/4 up to recall 3/4
    assert detection_map.average_precision(scores, hits, 4) == pytest.approx(1 / 4 + 2 / 4 * 3 / 4)
    assert detection_map.average_precision(np.zeros(0), np.zeros(0, bool), 3) == 0
    assert np.isnan(detection_map.average_precision(scores, np.zeros(5, bool), 0))


def slow_map(images: list[tuple], classes: int, threshold: float) -> list[float]:
    """The competition's words as loops: images of (classes, scores, overlaps, labels)."""
    result = []
    for name in range(classes):
        listed, truths = [], 0
        for own, scores, overlaps, labels in images:
            truths += int(labels[:, name].sum())
            used = set()
            for row in sorted(np.flatnonzero(own == name), key=lambda row: -scores[row]):
                best, best_overlap = None, -1.0
                for column in np.flatnonzero(labels[:, name]):
                    if overlaps[row, column] > best_overlap:
                        best, best_overlap = column, overlaps[row, column]
                hit = best is not None and best_overlap >= threshold and best not in used
                used |= {best} if hit else set()
                listed.append((row, scores[row], hit))
        if not truths:
            result.append(float("nan"))
            continue
        # equal scores of different images: the earlier image first; within one image, the order given
        listed.sort(key=lambda entry: -entry[1])
        found = np.cumsum([hit for _, _, hit in listed]).tolist()
        precision = [hits / place for place, hits in enumerate(found, start=1)]
        recall = [0.0, *(hits / truths for hits in found)]
        result.append(
            sum((recall[place + 1] - recall[place]) * max(precision[place:]) for place in range(len(precision)))
        )
    return result


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_detection_map_is_the_slow_one(seed: int) -> None:
    generator = np.random.default_rng(seed)
    tally, images = DetectionMAP(classes=3, threshold=0.6), []
    for _ in range(generator.integers(1, 5)):
        detections, truths = generator.integers(0, 12), generator.integers(0, 5)
        image = (
            generator.integers(3, size=detections),
            generator.integers(6, size=detections) / 5,  # many equal scores
            generator.integers(11, size=(detections, truths)) / 10,  # many equal overlaps, some of exactly .6
            generator.random((truths, 3)) < 0.4,
        )
        tally.add(*image)
        images.append(image)
    np.testing.assert_allclose(tally.average_precision(), slow_map(images, 3, 0.6), atol=1e-12)
    detections, hits = tally.counts()
    assert detections.sum() == sum(len(image[0]) for image in images)
    assert (hits <= tally.truths).all()


def test_unknown_targets_are_left_out_of_their_class() -> None:
    probs = np.array([[0.9, 0.9], [0.8, 0.8], [0.7, 0.7], [0.6, 0.6]])
    targets = np.array([[1.0, np.nan], [0.0, 1.0], [1.0, np.nan], [0.0, np.nan]])
    np.testing.assert_allclose(classification.average_precision(probs, targets), [(1 + 2 / 3) / 2, 1.0])


def test_unlabelled_samples_count_for_no_class():
    """Three samples named rightly, one without a class, one whose labels are unknown."""
    targets = np.array([[1, 0], [0, 1], [0, 1], [0, 0], [np.nan, np.nan]], np.float32)
    probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7], [0.4, 0.6], [0.1, 0.9]])
    row = classify.scores(probs, targets, ("a", "b"), exclusive=True)
    assert row["accuracy"] == row["macro_f1"] == 1
    assert classify.scores(probs[3:], targets[3:], ("a", "b"), exclusive=True)["accuracy"] == 0
