"""Overlap removal against the plain loop, and masks averaged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cells.instance_fusion import fuse_instances
from cells.overlaps import average_masks, cut_mask, remove_overlaps


def plain(masks, scores, min_area):
    labels = np.zeros(masks.shape[1:], np.int32)
    for index in sorted(range(len(masks)), key=lambda row: (-scores[row], row)):
        left = masks[index] & (labels == 0)
        if left.sum() >= max(min_area[index], 1):
            labels[left] = index + 1
    return labels


@settings(max_examples=80, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 6), st.integers(1, 7), st.integers(1, 7))), st.data())
def test_equals_the_plain_loop(masks, data):
    rows = len(masks)
    scores = np.array(data.draw(st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=rows, max_size=rows)))
    areas = np.array(data.draw(st.lists(st.integers(0, 6), min_size=rows, max_size=rows)))
    expected = plain(masks, scores, areas)
    cuts = [cut_mask(mask) for mask in masks]
    np.testing.assert_array_equal(remove_overlaps(masks, scores, min_area=areas), expected)
    np.testing.assert_array_equal(remove_overlaps(cuts, scores, masks.shape[1:], min_area=areas), expected)
    probs = np.where(masks, 0.7, 0.5).astype(np.float32)  # one half is not above one half
    np.testing.assert_array_equal(remove_overlaps(probs, scores, min_area=areas), expected)


def test_what_a_dropped_mask_covered_goes_to_the_next():
    masks = np.array([[[1, 1, 0, 0]], [[0, 1, 1, 1]]], bool)
    labels = remove_overlaps(masks, np.array([0.9, 0.8]), min_area=np.array([3, 1]))
    assert labels.tolist() == [[0, 2, 2, 2]]


@pytest.mark.parametrize(("share", "row"), [(0.0, [1, 1, 1, 2]), (0.25, [1, 1, 1, 2]), (0.5, [1, 1, 1, 0])])
def test_a_mask_that_better_ones_nearly_cover_is_no_cell(share, row):
    masks = np.array([[[1, 1, 1, 0]], [[1, 1, 1, 1]]], bool)
    assert remove_overlaps(masks, np.array([0.9, 0.8]), share=share).tolist() == [row]


def test_cut_masks_may_leave_the_image():
    ones = np.ones((3, 3), bool)
    cuts = [(ones, (-2, -1)), (ones, (2, 1)), (ones, (9, 9)), (ones[:0, :0], (0, 0))]
    labels = remove_overlaps(cuts, np.ones(4), (2, 4))
    assert labels.tolist() == [[1, 0, 0, 0], [1, 0, 2, 2]]


def test_no_masks():
    assert not remove_overlaps([], np.zeros(0), (3, 4)).any()
    assert remove_overlaps(np.zeros((0, 3, 4), bool), np.zeros(0)).shape == (3, 4)


def test_mean_of_masks_by_hand():
    one, other = np.ones((1, 2), np.float32), np.array([[1, 0.5], [0, 1]], np.float32)
    mean, corner = average_masks([(one, (3, 5)), (other, (4, 5))], [3, 1])
    assert corner == (3, 5)
    np.testing.assert_allclose(mean, [[0.75, 1, 0.125], [0, 0, 0.25]])


def test_two_folds_agree_on_one_cell_and_not_on_another():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 5], [10, 10, 12, 12]], float)
    masks = [(np.ones((4, 4), bool), (0, 0)), (np.ones((5, 4), bool), (0, 0)), (np.ones((2, 2), bool), (10, 10))]
    fused, joined = fuse_instances(masks, boxes, np.array([0.8, 0.8, 0.6]), np.array([0, 1, 1]), np.ones(2))
    np.testing.assert_allclose(fused.boxes, [[0, 0, 4, 4.5], [10, 10, 12, 12]])
    np.testing.assert_allclose(fused.scores, [0.8, 0.3])
    assert [corner for _, corner in joined] == [(0, 0), (10, 10)]
    np.testing.assert_allclose(joined[0][0][:, 0], [1, 1, 1, 1, 0.5])
    assert remove_overlaps(joined, fused.scores, (14, 14)).sum() == 16 + 2 * 4  # half of the weight is not enough


def test_instances_of_two_classes_are_not_fused():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 4]], float)
    masks = [(np.ones((4, 4), bool), (0, 0))] * 2
    fused, joined = fuse_instances(
        masks, boxes, np.array([0.8, 0.4]), np.array([0, 1]), np.ones(2), groups=np.array([0, 1])
    )
    assert len(joined) == 2 and fused.groups.tolist() == [0, 1]
    with pytest.raises(IndexError):
        fuse_instances(masks, boxes, np.array([0.8, 0.4]), np.array([0, 2]), np.ones(2))


def test_nothing_to_fuse():
    fused, joined = fuse_instances([], np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.ones(2))
    assert len(fused.boxes) == 0 and joined == []
