"""Pairs of cells and mean AP of instances, against one mask a cell and by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metrics.instance_ap import THRESHOLDS, ap_table, counts, precisions
from metrics.instance_pairs import pair_labels, pair_layers


def slow_ious(truth, found) -> np.ndarray:
    true = [truth == label for label in np.unique(truth) if label]
    own = [found == label for label in np.unique(found) if label]
    rows = [[(a & b).sum() / (a | b).sum() for b in own] for a in true]
    return np.array(rows).reshape(len(true), len(own))


def slow_precisions(ious: np.ndarray) -> list[float]:
    """As the competitions' public scorer counts."""
    result = []
    for step in range(10):
        matches = ious > round(0.5 + 0.05 * step, 2)
        hits = (matches.sum(axis=1) == 1).sum()
        misses, wrong = (matches.sum(axis=1) == 0).sum(), (matches.sum(axis=0) == 0).sum()
        result.append(hits / (hits + wrong + misses) if hits + wrong + misses else 1.0)
    return result


images = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda shape: st.tuples(
        *[
            hnp.arrays(kind, shape, elements=st.sampled_from([0, 1, 2, 5, 60000]))
            for kind in (np.uint16, np.int64)
        ]
    )
)


@settings(max_examples=120, deadline=None)
@given(images)
def test_pairs_and_precisions_equal_the_slow_ones(pair):
    truth, found = pair
    pairs, slow = pair_labels(truth, found), slow_ious(truth, found)
    ious = np.zeros((pairs.truths, pairs.founds))
    ious[pairs.truth, pairs.found] = pairs.iou
    np.testing.assert_allclose(ious, slow)
    assert (pairs.iou > 0).all()
    np.testing.assert_allclose(precisions(pairs), slow_precisions(slow))


def test_true_cells_over_each_other_count_whole():
    layers = [np.array([[1, 1, 1, 0, 3]]), np.array([[0, 2, 2, 2, 0]])]
    pairs = pair_layers(layers, np.array([[9, 9, 9, 4, 0]]))
    table = {(t, f): value for t, f, value in zip(pairs.truth, pairs.found, pairs.iou, strict=True)}
    assert table == {(0, 1): 1.0, (1, 1): 0.5, (1, 0): pytest.approx(1 / 3)}
    assert (pairs.truths, pairs.founds) == (3, 2)
    assert counts(pairs)[:, 0].tolist() == [1, 1, 2]


@pytest.mark.parametrize(("common", "hits"), [(11, 1), (12, 2), (19, 9), (20, 10)])
def test_a_threshold_must_be_exceeded_not_reached(common, hits):
    truth = np.ones((1, 20), int)
    found = (np.arange(20) < common)[None].astype(int)  # IoU = common / 20 exactly
    assert counts(pair_labels(truth, found))[0].sum() == hits


def test_thresholds_are_the_decimals():
    assert THRESHOLDS.tolist() == [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]


def test_images_without_cells():
    nothing, cell = np.zeros((3, 3), int), np.eye(3, dtype=int)
    assert precisions(pair_labels(nothing, nothing)).mean() == 1
    assert precisions(pair_labels(nothing, cell)).mean() == 0
    assert precisions(pair_labels(cell, nothing)).mean() == 0


def test_table_by_hand():
    truth = np.array([[1, 1, 1, 1, 0, 2]])
    exact, half = pair_labels(truth, truth), pair_labels(truth, np.array([[1, 1, 1, 0, 0, 0]]))
    table = ap_table([exact, half, exact], ["b", "a", "b"])  # half: IoU .75 to the first, the second is missed
    assert table["Class"].tolist() == ["b", "a", "mean"]
    np.testing.assert_allclose(table["AP"], [1, 0.25, 0.75])
    np.testing.assert_allclose(table["AP50"], [1, 0.5, 2.5 / 3])
    assert table[["Images", "Truths", "Detections"]].to_numpy().tolist() == [[2, 4, 4], [1, 2, 1], [3, 6, 5]]


def test_label_images_of_two_sizes_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        pair_labels(np.zeros((3, 3), int), np.zeros((3, 4), int))
