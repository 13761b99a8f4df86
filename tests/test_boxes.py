"""Boxes and their fusion: numbers worked out by hand, torchvision and ensemble-boxes as oracles."""

import numpy as np
import pytest
import torch
from ensemble_boxes import weighted_boxes_fusion
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import ops

from cells import boxes as box
from cells.box_fusion import CONFIDENCES, fuse, merge_centres
from common.errors import UserError

SEEDS = st.integers(0, 2**32 - 1)


def random_boxes(generator: np.random.Generator, count: int, side: float = 100) -> np.ndarray:
    low = generator.uniform(0, side * 0.7, (count, 2))
    return np.hstack([low, low + generator.uniform(side * 0.01, side * 0.3, (count, 2))])


@given(SEEDS, st.integers(0, 12), st.integers(0, 12))
@settings(max_examples=30, deadline=None)
def test_overlaps_are_torchvisions(seed: int, first: int, second: int) -> None:
    generator = np.random.default_rng(seed)
    one, other = random_boxes(generator, first), random_boxes(generator, second)
    for ours, theirs in ((box.iou, ops.box_iou), (box.giou, ops.generalized_box_iou)):
        values = ours(one[:, None], other[None])
        assert values.shape == (first, second)
        assert values == pytest.approx(theirs(torch.tensor(one), torch.tensor(other)).numpy(), abs=1e-12)


def test_overlaps_by_hand() -> None:
    one = np.array([0, 0, 2, 2])
    assert box.iou(one, np.array([1, 1, 3, 3])) == pytest.approx(1 / 7)
    assert box.giou(one, np.array([1, 1, 3, 3])) == pytest.approx(1 / 7 - 2 / 9)
    assert box.iou(one, np.array([2, 0, 4, 2])) == 0 and box.giou(one, np.array([2, 0, 4, 2])) == 0
    point = np.array([1, 1, 1, 1])
    assert box.iou(point, point) == 0 and box.giou(point, point) == 0 and box.areas(np.array([3, 3, 1, 1])) == 0


def test_centres_and_corners() -> None:
    corners = np.array([[-40.0, 10, 60, 30]])
    assert box.to_centres(corners).tolist() == [[10, 20, 100, 20]]
    assert box.to_corners(box.to_centres(corners)).tolist() == corners.tolist()
    assert box.clip(np.array([[-4.0, 5, 30, 40]]), np.array([20, 10])).tolist() == [[0, 5, 20, 10]]
    two = np.array([[-4.0, 5, 30, 40], [-4.0, 5, 30, 40]])
    assert box.clip(two, np.array([[20, 10], [50, 50]])).tolist() == [[0, 5, 20, 10], [0, 5, 30, 40]]


@given(SEEDS, st.integers(0, 60), st.integers(1, 4), st.sampled_from([0.0, 0.3, 0.75]))
@settings(max_examples=40, deadline=None)
def test_nms_is_torchvisions(seed: int, count: int, groups: int, threshold: float) -> None:
    generator = np.random.default_rng(seed)
    rows, scores, group = (
        random_boxes(generator, count, 30),
        generator.random(count),
        generator.integers(groups, size=count),
    )
    kept = box.nms(rows, scores, threshold, group)
    theirs = ops.batched_nms(torch.tensor(rows), torch.tensor(scores), torch.tensor(group), threshold).numpy()
    assert sorted(kept) == sorted(theirs)
    assert (np.diff(group[kept]) >= 0).all()
    assert (
        box.nms(rows, scores, threshold).tolist()
        == ops.nms(torch.tensor(rows), torch.tensor(scores), threshold).tolist()
    )


def test_nms_of_equal_scores_keeps_the_first() -> None:
    rows = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [20, 0, 30, 10]])
    assert box.nms(rows, np.full(3, 0.5), 0.5).tolist() == [0, 2]
    assert box.nms(rows, np.full(3, 0.5), 1.0).tolist() == [0, 1, 2]  # an IoU of 1 does not exceed 1


def test_top_takes_a_number_for_all_or_for_each() -> None:
    scores, groups = np.array([0.1, 0.5, 0.9, 0.5, 0.7]), np.array([4, 4, 4, 2, 2])
    assert box.top(scores, groups, 1).tolist() == [4, 2]
    assert box.top(scores, groups, 2).tolist() == [4, 3, 2, 1]
    assert box.top(scores, groups, np.where(groups == 4, 3, 0)).tolist() == [2, 1, 0]
    assert len(box.top(np.zeros(0), np.zeros(0, int), 5)) == 0


@given(SEEDS, st.integers(0, 40), st.sampled_from(list(CONFIDENCES)), st.sampled_from([0.1, 0.4, 0.7]))
@settings(max_examples=40, deadline=None)
def test_fusion_is_ensemble_boxes(seed: int, count: int, confidence: str, iou: float) -> None:
    generator = np.random.default_rng(seed)
    rows, scores = random_boxes(generator, count, 1), generator.random(count)
    models, labels = generator.integers(3, size=count), generator.integers(2, size=count)
    weights = np.array([1.0, 2.0, 0.5])
    parts = [[values[models == model] for model in range(3)] for values in (rows, scores, labels)]
    theirs = weighted_boxes_fusion(*parts, weights, iou_thr=iou, skip_box_thr=0.05, conf_type=confidence)
    ours = fuse(rows * 640, scores, models, weights, iou, labels, skip=0.05, confidence=confidence)
    assert len(ours.boxes) == len(theirs[0])
    order = np.lexsort((-theirs[1], theirs[2]))
    assert ours.groups == pytest.approx(theirs[2][order])
    assert ours.scores == pytest.approx(theirs[1][order], rel=1e-5)  # the package keeps 32 bits
    assert ours.boxes == pytest.approx(theirs[0][order] * 640, abs=2e-3)


def test_fusion_by_hand() -> None:
    rows = np.array([[0, 0, 10, 10], [0, 2, 10, 12], [50, 50, 60, 60], [0, 0, 10, 10]])
    scores, models = np.array([0.8, 0.4, 0.6, 0.05]), np.array([0, 1, 1, 1])
    fused = fuse(rows, scores, models, np.ones(2), 0.5, skip=0.1)
    assert fused.boxes == pytest.approx(np.array([[0, 2 / 3, 10, 32 / 3], [50, 50, 60, 60]]))
    assert fused.scores == pytest.approx([0.6, 0.3])  # a model that does not see a cell halves its score
    apart = fuse(rows, scores, models, np.ones(2), 0.5, groups=np.array([7, 8, 8, 8]), skip=0.1)
    assert apart.groups.tolist() == [7, 8, 8] and apart.scores == pytest.approx([0.4, 0.3, 0.2])


def test_centres_merge_within_the_radius_only() -> None:
    rows = box.to_corners(np.array([[50, 50, 100, 100], [62, 50, 100, 100], [72, 50, 100, 100.0]]))
    scores, models, both = np.array([0.9, 0.3, 0.2]), np.array([0, 1, 1]), np.ones(2)
    merged = merge_centres(rows, scores, models, both, 12)  # 62 joins 50, their mean 53 is too far from 72
    assert box.to_centres(merged.boxes) == pytest.approx(np.array([[53, 50, 100, 100], [72, 50, 100, 100]]))
    assert merged.scores == pytest.approx([0.6, 0.1])
    assert len(merge_centres(rows, scores, models, both, 11.9).boxes) == 2  # 62 and 72 now, 50 alone
    assert len(merge_centres(rows, scores, models, both, 9.9).boxes) == 3
    weighted = merge_centres(rows[:2], scores[:2], models[:2], np.array([1.0, 3.0]), 12)
    assert box.to_centres(weighted.boxes)[0, 0] == pytest.approx((0.9 * 50 + 0.9 * 62) / 1.8)


def test_a_box_joins_the_nearest_centre() -> None:
    rows = box.to_corners(np.array([[0, 0, 10, 10], [20, 0, 10, 10], [12, 0, 10, 10.0]]))
    merged = merge_centres(rows, np.array([0.9, 0.8, 0.4]), np.array([0, 0, 1]), np.ones(2), 15)
    assert sorted(box.to_centres(merged.boxes)[:, 0]) == pytest.approx([0, (0.8 * 20 + 0.4 * 12) / 1.2])


@pytest.mark.parametrize("way", [fuse, merge_centres])
def test_nothing_and_boxes_without_area_fuse_to_nothing(way) -> None:
    empty = way(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.ones(2), 0.5)
    assert empty.boxes.shape == (0, 4) and len(empty.scores) == len(empty.groups) == 0
    flat = way(np.array([[3, 3, 3, 9], [5, 5, 2, 9]]), np.ones(2), np.zeros(2, int), np.ones(1), 0.5)
    assert len(flat.boxes) == 0
    unsure = way(np.array([[0, 0, 2, 2]]), np.zeros(1), np.zeros(1, int), np.ones(1), 0.5)
    assert unsure.boxes.tolist() == [[0, 0, 2, 2]] and unsure.scores.tolist() == [0]


def test_an_unknown_confidence_lists_the_choices() -> None:
    with pytest.raises(UserError, match="median.*avg, max, box_and_model_avg"):
        fuse(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.ones(1), 0.5, confidence="median")


def test_the_best_matches_do_not_hang_on_how_many_pairs_are_compared_at_a_time(monkeypatch):
    generator = np.random.default_rng(0)
    corners = generator.uniform(0, 50, (2, 60, 2))
    one, other = (np.concatenate([xy, xy + generator.uniform(5, 30, (60, 2))], axis=1) for xy in corners)
    groups, other_groups = generator.integers(0, 5, 60), generator.integers(1, 6, 60)
    rows, highest = box.best_match(one, groups, other, other_groups, box.iou)
    for index, (own_box, group) in enumerate(zip(one, groups, strict=True)):
        own = np.flatnonzero(other_groups == group)
        values = box.iou(own_box, other[own])
        assert (rows[index], highest[index]) == ((own[values.argmax()], values.max()) if len(own) else (-1, -1))
    monkeypatch.setattr(box, "PAIRS", 7)
    for first, second in zip((rows, highest), box.best_match(one, groups, other, other_groups, box.iou), strict=True):
        np.testing.assert_array_equal(first, second)
