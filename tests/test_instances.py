"""Class maps and masks made into cells, on drawn discs."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cells.instances import (
    cell_depths,
    class_instances,
    deep_instances,
    drop_small,
    merge_channels,
    numbered,
    otsu_watershed,
    scale_for,
    split_cells,
    texture_watershed,
)


def discs(*places, shape=(80, 120), value=1, background=0) -> np.ndarray:
    image = np.full(shape, background, np.uint8)
    for x, y, radius in places:
        cv2.circle(image, (x, y), radius, value, -1)
    return image


@pytest.mark.parametrize("radius", [6, 12, 24])
def test_touching_discs_of_any_size_are_cut_at_the_neck(radius):
    x = 30 + int(1.8 * radius)
    labels = split_cells(discs((30, 40, radius), (x, 40, radius)))
    assert labels.max() == 2
    assert labels[40, 30] == 1 and labels[40, x] == 2
    areas = np.bincount(labels.ravel())[1:]
    assert abs(areas[0] - areas[1]) < 0.15 * areas.mean()


def test_one_ellipse_stays_one_cell():
    mask = np.zeros((80, 120), np.uint8)
    cv2.ellipse(mask, (60, 40), (40, 12), 20, 0, 360, 1, -1)
    np.testing.assert_array_equal(split_cells(mask) > 0, mask > 0)
    assert split_cells(mask).max() == 1


def test_every_pixel_of_the_mask_is_some_cell_s_and_ids_have_no_gap():
    mask = discs((20, 20, 10), (35, 20, 9), (100, 60, 12), (0, 79, 9))
    labels = split_cells(mask, min_area=1)
    np.testing.assert_array_equal(labels > 0, mask > 0)
    assert np.unique(labels).tolist() == [0, 1, 2, 3, 4]


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(bool, st.tuples(st.integers(1, 25), st.integers(1, 25))), st.integers(1, 9))
def test_any_mask(mask, min_area):
    labels = split_cells(mask, min_area=min_area)
    assert labels.dtype == np.int32 and not labels[~mask].any()
    areas = np.bincount(labels.ravel())[1:]
    assert (areas >= min_area).all()
    for label in range(1, labels.max() + 1):
        assert cv2.connectedComponents((labels == label).astype(np.uint8), connectivity=4)[0] == 2


def test_masks_without_and_of_nothing_else():
    assert not split_cells(np.zeros((5, 6), bool)).any()
    assert (split_cells(np.ones((40, 50), bool)) == 1).all()


def test_small_cells_are_dropped_and_the_others_numbered_anew():
    labels = np.array([[1, 2, 2, 0], [3, 2, 5, 5]])
    assert drop_small(labels, 2).tolist() == [[0, 1, 1, 0], [0, 1, 2, 2]]


def test_ids_are_unique_over_the_classes_and_each_has_its_class():
    types = discs((20, 20, 8), (60, 20, 8), value=1) + discs((20, 60, 8), value=2)
    probs = np.stack([(types == 1) * 0.8, (types == 0) * 0.9, (types == 2) * 0.7])
    labels, classes = class_instances(probs, background=1)
    assert sorted(classes.tolist()) == [0, 0, 2]
    assert classes[labels[20, 20] - 1] == classes[labels[20, 60] - 1] == 0 and classes[labels[60, 20] - 1] == 2
    np.testing.assert_array_equal(labels > 0, types > 0)


def test_background_everywhere_is_no_cell():
    labels, classes = class_instances(np.stack([np.zeros((9, 9)), np.ones((9, 9))]), 1)
    assert not labels.any() and len(classes) == 0


def test_merged_channels_by_hand():
    masks = np.zeros((1, 4, 3), np.int64)
    masks[0, :, 0] = [7, 7, 0, 0]
    masks[0, :, 2] = [0, 7, 7, 2]
    assert merge_channels(masks).tolist() == [[7, 14, 14, 9]]


def test_numbers_in_a_row_by_hand():
    masks = np.zeros((1, 4, 2), np.int64)
    masks[0, :, 0], masks[0, :, 1] = [70000, 0, 5, 5], [0, 0, 9, 0]
    labels, types = numbered(masks)
    assert labels.tolist() == [[2, 0, 3, 1]] and labels.dtype == np.uint16
    assert types.tolist() == [2, 0, 0, 1]
    labels, types = numbered(np.full((2, 2, 1), 4))  # no background
    assert labels.tolist() == [[1, 1], [1, 1]] and types.tolist() == [1, 0]


def test_scale_for_by_hand():
    labels = np.zeros((40, 60), np.int32)
    labels[:20, :20], labels[20:30, :10], labels[:2, 40:42], labels[:2, 50:52] = 1, 2, 4, 5
    diameter = np.sqrt(400 * 4 / np.pi)  # 400 of the 508 pixels are in a cell of 400
    assert scale_for(labels, 2 * diameter, 9.0) == pytest.approx(2)
    assert scale_for(labels, diameter / 100, 9.0) == 1 / 16 and scale_for(labels, 100 * diameter, 9.0) == 4
    assert scale_for(np.zeros((4, 4), int), 10, 9.0) == 9.0 and scale_for(np.ones((4, 4), int), 0.5, 9.0) < 1


def test_depths_by_hand():
    np.testing.assert_allclose(cell_depths(np.array([[0, 7, 7, 7, 7, 7, 0]])), [[0, 0.2, 0.6, 1, 0.6, 0.2, 0]])
    # A neighbour is an edge, the image's border is none.
    np.testing.assert_allclose(cell_depths(np.array([[1, 1, 1, 2, 2, 2]])), [[1, 0.6, 0.2, 0.2, 0.6, 1]])
    assert (cell_depths(np.ones((3, 4), np.uint16)) == 1).all() and not cell_depths(np.zeros((3, 4), int)).any()


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.uint16, (7, 9), elements=st.integers(0, 3)))
def test_depths_as_slowly(labels):
    right = np.zeros(labels.shape)
    places = np.argwhere(labels >= 0)
    for y, x in np.argwhere(labels > 0):
        others = places[labels[tuple(places.T)] != labels[y, x]]
        right[y, x] = np.hypot(*(others - (y, x)).T).min() - 0.5 if len(others) else 1
    highest = np.array([max(right[labels == label].max(initial=0), 1e-9) for label in range(4)])
    np.testing.assert_allclose(cell_depths(labels), right / highest[labels], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("radius", "small"), [(4, 5), (8, 6), (20, 15)])
def test_depths_part_cells_of_any_size(radius, small):
    """Two squares with a side in common, an ellipse, and a small square of hardly more than SPECK of it."""
    cells = np.zeros((160, 200), np.uint16)
    cells[20 : 20 + 2 * radius, 20 : 20 + 2 * radius] = 1
    cells[20 : 20 + 2 * radius, 20 + 2 * radius : 20 + 4 * radius] = 2
    cells[130 : 130 + small, 20 : 20 + small] = 3
    cv2.ellipse(cells, (120, 100), (3 * radius, radius), 30, 0, 360, 4, -1)
    own = cell_depths(cells)
    labels, classes = deep_instances(np.stack([own * (cells < 4), own * (cells == 4), (cells > 0) - own, cells == 0]))
    assert labels.max() == 4 and sorted(classes) == [0, 0, 0, 1]
    for label in range(1, 5):
        whole, found = cells == label, labels == np.bincount(labels[cells == label]).argmax()
        assert (whole & found).sum() > 0.8 * (whole | found).sum()
    nothing = np.stack([np.zeros((9, 9)), np.zeros((9, 9)), np.ones((9, 9))])
    assert not deep_instances(nothing)[0].any()


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
@pytest.mark.parametrize("colours", [False, True])
@pytest.mark.parametrize("dark", [False, True])
def test_baseline_finds_light_and_dark_discs(depth, colours, dark):
    image = discs((20, 20, 10), (70, 40, 12), (37, 20, 9), value=200, background=40).astype(depth)
    image = image * depth(200) if depth == np.uint16 else image
    image = image.max() + image.min() - image if dark else image
    labels = otsu_watershed(np.dstack([image] * 3) if colours else image)
    assert labels.max() == 3 and labels[20, 20] and labels[40, 70] and not labels[79, 0]


def test_baseline_sees_nothing_in_an_even_image():
    assert not otsu_watershed(np.full((20, 30), 9, np.uint8)).any()
    assert not texture_watershed(np.full((20, 30), 9, np.uint8)).any()


def test_baseline_of_phase_contrast_finds_rough_discs_on_smooth_ground():
    noise = np.random.default_rng(0).normal(0, 30, (80, 120))
    cells = discs((25, 40, 16), (85, 40, 20))
    labels = texture_watershed((128 + noise * cells).astype(np.uint8))
    assert labels.max() == 2 and labels[40, 25] and labels[40, 85]
    assert (labels[cells > 0] > 0).mean() > 0.95
    assert (labels > 0).sum() < 1.7 * (cells > 0).sum()  # the texture reaches a little beyond the edge
