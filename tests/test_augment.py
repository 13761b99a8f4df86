"""Views and crops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from augment import TRAIN
from augment.crops import dihedral_crop, random_crop, whole
from augment.views import VIEWS, apply_view, parse_views, undo_view
from cells.crops import resize
from common.errors import UserError
from common.seeds import rng


def test_the_eight_views_by_hand():
    image = torch.tensor([[1, 2], [3, 4]])
    expected = {
        "default": [[1, 2], [3, 4]],
        "flipud": [[3, 4], [1, 2]],
        "fliplr": [[2, 1], [4, 3]],
        "transpose": [[1, 3], [2, 4]],
        "flipud_lr": [[4, 3], [2, 1]],
        "flipud_transpose": [[3, 1], [4, 2]],
        "fliplr_transpose": [[2, 4], [1, 3]],
        "flipud_lr_transpose": [[4, 2], [3, 1]],
    }
    assert {view: apply_view(image, view).tolist() for view in VIEWS} == expected


@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from(list(VIEWS)))
@settings(max_examples=30, deadline=None)
def test_views_can_be_undone(height, width, view):
    batch = torch.arange(2 * 3 * height * width).view(2, 3, height, width)
    assert torch.equal(undo_view(apply_view(batch, view), view), batch)


def test_parse_views():
    assert parse_views("all") == list(VIEWS)
    assert parse_views("fliplr,default,fliplr") == ["fliplr", "default"]
    with pytest.raises(UserError, match="--augment rot90 is not known; choose from: default, flipud"):
        parse_views("rot90")


@pytest.mark.parametrize("name", TRAIN)
@given(height=st.integers(20, 50), width=st.integers(20, 50), seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_training_changes(name, height, width, seed):
    """Right size and dtype, contiguous, the same for the same generator, and no value that was not there."""
    image = rng(seed).integers(50, 100, (height, width, 4), dtype=np.uint8)
    changed = [TRAIN[name](image, 24, rng(seed, "a", 1)) for _ in range(2)]
    assert changed[0].shape == (24, 24, 4) and changed[0].dtype == np.uint8
    assert np.array_equal(*changed)
    if name != "stained_crop":  # which changes the colours
        assert changed[0].min() >= 50 and changed[0].max() < 100


def test_random_crop_is_a_part_of_the_image():
    rows, columns = np.mgrid[:64, :64]
    image = np.dstack([rows, columns]).astype(np.uint8)
    sides = []
    for seed in range(50):
        crop = random_crop(image, 32, rng(seed))
        sides.append(int(crop[-1, 0, 0]) - int(crop[0, 0, 0]) + 1)
    assert min(sides) < 40 and max(sides) > 56 and min(sides) >= 30  # sides of 32 to 64 occur


def test_dihedral_crops_are_the_eight_views():
    """Of an image that is no larger than the crop, each about as often."""
    image = np.arange(12 * 12 * 2, dtype=np.uint8).reshape(12, 12, 2)
    views = [apply_view(torch.from_numpy(image).permute(2, 0, 1), view).permute(1, 2, 0).numpy() for view in VIEWS]
    crops = [dihedral_crop(image, 12, rng(seed)) for seed in range(200)]
    seen = [[np.array_equal(crop, view) for view in views].index(True) for crop in crops]
    assert np.bincount(seen, minlength=8).min() > 10


def test_stained_crops_turn_scale_and_shift():
    """A disc of a quarter of the image: its place, its area and, of a bar, its angle vary."""
    rows, columns = np.mgrid[:64, :64]
    disc = (np.hypot(rows - 31.5, columns - 31.5) < 16).astype(np.uint8)[..., None] * np.full(3, 200, np.uint8)
    found = [TRAIN["stained_crop"](disc, 64, rng(seed)).max(2) > 100 for seed in range(60)]
    areas = np.array([one.sum() for one in found])
    middles = np.array([[where.mean() for where in one.nonzero()] for one in found])
    assert areas.min() < 0.95 * 804 and areas.max() > 1.05 * 804
    assert (np.ptp(middles, axis=0) > 2).all() and np.abs(middles.mean(0) - 31.5).max() < 3


def test_whole_and_resize():
    image = np.full((40, 20, 4), 7, np.uint8)
    assert whole(image, 10).shape == (10, 10, 4)
    assert (resize(image, 80) == 7).all()
    same = np.zeros((5, 5, 4), np.uint8)
    assert resize(same, 5) is same
