"""Panoptic quality and Dice against slow versions and by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from metrics.dice import class_pixels, dice, frequency_weights, weighted_dice
from metrics.instance_pairs import pair_labels
from metrics.panoptic import image_quality, panoptic_quality, tissue_table


def official(truth: np.ndarray, found: np.ndarray) -> float:
    """DQ x SQ, with one mask a cell; the official code's millionth left out."""
    true = [truth == label for label in np.unique(truth) if label]
    own = [found == label for label in np.unique(found) if label]
    if not true:
        return float("nan")
    matched = [(a & b).sum() / (a | b).sum() for a in true for b in own]
    matched = [value for value in matched if value > 0.5]
    hits = len(matched)
    detection = hits / (hits + 0.5 * (len(own) - hits) + 0.5 * (len(true) - hits))
    return detection * (sum(matched) / hits if hits else 0.0)


def paint(masks: np.ndarray) -> np.ndarray:
    """Types painted one over the other, each cell under a number of its own."""
    out, count = np.zeros(masks.shape[:2], int), 0
    for name in range(masks.shape[2]):
        for label in np.unique(masks[..., name]):
            if label:
                count += 1
                out[masks[..., name] == label] = count
    return out


shapes = st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 3))
pairs_of_images = shapes.flatmap(
    lambda shape: st.tuples(*[hnp.arrays(np.int32, shape, elements=st.sampled_from([0, 0, 1, 3]))] * 2)
)


@settings(max_examples=100, deadline=None)
@given(pairs_of_images)
def test_image_quality_equals_the_official_way(pair):
    truth, found = pair
    slow = [official(truth[..., name], found[..., name]) for name in range(truth.shape[2])]
    np.testing.assert_allclose(image_quality(truth, found), [official(paint(truth), paint(found)), *slow])


def test_quality_by_hand():
    truth, found = np.array([[1, 1, 1, 1, 0, 2]]), np.array([[5, 5, 5, 0, 9, 0]])
    assert panoptic_quality(pair_labels(truth, found)) == pytest.approx(0.75 / (1 + 0.5 + 0.5))
    half = np.array([[1, 1, 0, 0, 0, 0]])  # an IoU of .5 is no match
    assert panoptic_quality(pair_labels(truth, half)) == 0
    assert np.isnan(panoptic_quality(pair_labels(np.zeros_like(truth), found)))


def test_means_over_types_images_and_tissues():
    nan = np.nan
    qualities = np.array([[0.5, 0.2, 0.4], [0.7, nan, 0.8], [0.9, 0.6, nan], [nan, nan, nan]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = tissue_table(qualities, ["Skin", "Skin", "Lung", "Bladder"])
    assert table["Class"].tolist() == ["Bladder", "Lung", "Skin", "mean"]
    np.testing.assert_allclose(table["mPQ"], [nan, 0.6, 0.55, 0.575])
    np.testing.assert_allclose(table["bPQ"], [nan, 0.9, 0.6, 0.75])
    assert table["Images"].tolist() == [1, 1, 2, 4]


maps = st.integers(1, 20).flatmap(
    lambda size: st.tuples(*[hnp.arrays(np.uint8, size, elements=st.integers(0, 3))] * 2)
)


@settings(max_examples=60, deadline=None)
@given(maps)
def test_dice_equals_the_slow_one(pair):
    truth, found = pair
    slow = []
    for name in range(4):
        a, b = truth == name, found == name
        slow.append(2 * (a & b).sum() / (a.sum() + b.sum()) if a.any() or b.any() else np.nan)
    own = dice(class_pixels(truth, found, 4))
    np.testing.assert_allclose(own, slow)
    weights = np.array([1.0, 2, 3, 4])
    known = np.isin(np.arange(4), truth)  # what is only found has no Dice of its own
    expected = sum(w * d for w, d in zip(weights[known], own[known], strict=True)) / weights[known].sum()
    assert weighted_dice(class_pixels(truth, found, 4), weights) == pytest.approx(expected)


def test_weights_by_hand():
    weights = frequency_weights(np.array([9999, 900, 100, 1, 0]) * 10)
    raw = np.array([np.sqrt(11000 / 9999), np.sqrt(11000 / 900), 10, 10, 10])
    np.testing.assert_allclose(weights, raw / raw.mean())
    assert weights.mean() == pytest.approx(1)


def test_dice_of_nothing_is_not_a_number():
    assert np.isnan(weighted_dice(np.zeros((3, 2), int), np.ones(2)))
