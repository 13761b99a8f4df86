"""Scenes change as one: pixels, boxes and masks stay in step, and what is random depends on the seed alone."""

from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from augment import scenes
from augment.colours import STAINS, brightness_contrast, hue_saturation, in_hsv, stain
from augment.mosaic import mixed, mixup, mosaic
from augment.scenes import SCENES, Scene, about_middle, fitted, letterbox, mask_boxes, moved, shift_scale_rotate, turned
from common.seeds import rng

SIZES = [64, (64, 96), (100, 60)]


def ellipses(boxes, height: int, width: int) -> np.ndarray:
    """Masks (n, H, W) of the ellipses within boxes."""
    y, x = np.mgrid[:height, :width] + 0.5
    masks = [((x - (x1 + x2) / 2) / (x2 - x1)) ** 2 + ((y - (y1 + y2) / 2) / (y2 - y1)) ** 2 <= 0.25
             for x1, y1, x2, y2 in boxes]  # fmt: skip
    return np.array(masks, np.uint8).reshape(-1, height, width)


def scene(boxes=((10, 12, 40, 36), (60, 5, 80, 30), (30, 50, 62, 75)), shape=(80, 100, 3), masks=True, values=None):
    """Ellipses of the values (200 each) on black."""
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    drawn = ellipses(boxes, *shape[:2])
    image = np.zeros(shape, np.uint8)
    for mask, value in zip(drawn, values or [200] * len(boxes), strict=True):
        image[mask > 0] = value
    return Scene(image, boxes, np.arange(len(boxes)), drawn if masks else None)


def fits(one: Scene, shape: tuple[int, int]) -> None:
    """What every scene keeps to."""
    height, width = shape
    count = len(one.labels)
    assert one.image.dtype == np.uint8 and one.image.shape[:2] == shape and one.image.flags.c_contiguous
    assert one.boxes.shape == (count, 4) and one.boxes.dtype == np.float32
    assert (one.boxes[:, 2:] > one.boxes[:, :2]).all() and (one.boxes >= 0).all()
    assert (one.boxes <= [width, height, width, height]).all()
    if one.masks is not None:
        assert one.masks.shape == (count, height, width) and one.masks.dtype == np.uint8
        np.testing.assert_array_equal(mask_boxes(one.masks), one.boxes)


def box_of(pixels: np.ndarray) -> np.ndarray:
    return mask_boxes(pixels[None].astype(np.uint8))[0]


def test_mask_boxes_by_hand():
    masks = np.zeros((2, 5, 7), np.uint8)
    masks[0, 1:3, 2:6] = 1
    masks[1, 4, 6] = 1
    assert mask_boxes(masks).tolist() == [[2, 1, 6, 3], [6, 4, 7, 5]]


def test_letterbox_by_hand():
    whole = letterbox(scene(((10, 20, 30, 40),), (480, 640, 3), masks=False), 512, fill=7)
    assert whole.image.shape == (512, 512, 3)
    assert (whole.image[384:] == 7).all() and (whole.image[:384] != 7).any()
    np.testing.assert_allclose(whole.boxes, [[8, 16, 24, 32]])  # by .8
    assert fitted(480, 640, (384, 512)) == (384, 512) and fitted(100, 30, 50) == (50, 15)
    assert fitted(100, 370, (200, 1000)) == (200, 740)


def test_turned_by_hand():
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    one = Scene(image, np.float32([[0, 0, 2, 1]]), np.array([3]), np.array([[[1, 1, 0], [0, 0, 0]]], np.uint8))
    flipped = turned(one, flipud=False, fliplr=True, transpose=False)
    assert flipped.image[..., 0].tolist() == [[2, 1, 0], [5, 4, 3]] and flipped.boxes.tolist() == [[1, 0, 3, 1]]
    across = turned(one, flipud=True, fliplr=False, transpose=True)
    assert across.image[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]] and across.boxes.tolist() == [[1, 0, 2, 2]]
    np.testing.assert_array_equal(mask_boxes(across.masks), across.boxes)


@given(st.booleans(), st.booleans(), st.booleans())
@settings(deadline=None)
def test_turned_keeps_step(flipud, fliplr, transpose):
    one = turned(scene(), flipud, fliplr, transpose)
    fits(one, (100, 80) if transpose else (80, 100))
    np.testing.assert_array_equal(one.masks.any(0), one.image[..., 0] > 0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_moved_pixels_boxes_and_masks_agree(seed):
    one = shift_scale_rotate(scene(), rng(seed), 0.1, 0.3, 45, False, 0)
    fits(one, (80, 100))
    cells, bright = one.masks.any(0).astype(np.uint8), (one.image[..., 0] > 100).astype(np.uint8)
    window = np.ones((3, 3), np.uint8)
    inner = partial(cv2.erode, kernel=window, borderType=cv2.BORDER_CONSTANT, borderValue=0)  # only one interpolates
    assert (inner(cells) <= bright).all()
    if len(one.labels) == len(scene().labels):  # what is left of a cell that is mostly outside is bright, but no cell
        assert (inner(bright) <= cells).all()
    plain = shift_scale_rotate(scene(masks=False), rng(seed), 0.1, 0.3, 45, False, 0)
    found = dict(zip(plain.labels, plain.boxes, strict=True))
    for label, box in zip(one.labels, one.boxes, strict=True):
        if box.min() > 1 and box[2] < 99 and box[3] < 79:
            np.testing.assert_allclose(found[label], box, atol=1.6)


def test_moved_by_hand():
    """Twice as large and moved by (-30, 10): the first cell leaves by more than two thirds, the second is cut."""
    one = scene(((0, 0, 20, 10), (10, 10, 30, 30), (40, 10, 60, 20)), masks=False)
    matrix = np.array([[2.0, 0, -30], [0, 2, 10]])
    result = moved(one, matrix, (80, 100))
    assert result.labels.tolist() == [1, 2]  # of the first, 10 of 40 columns are left
    np.testing.assert_allclose(result.boxes[result.labels == 1], [[0, 30, 30, 70]])
    np.testing.assert_allclose(result.boxes[result.labels == 2], [[50, 30, 90, 50]])
    kept = moved(one, matrix, (80, 100), keep_size=True)
    assert kept.labels.tolist() == [1, 2]
    np.testing.assert_allclose(kept.boxes, [[0, 40, 20, 60], [60, 35, 80, 45]])


def test_quarter_turn_is_exact():
    one = scene(shape=(80, 80, 3), boxes=((10, 12, 40, 36), (60, 5, 79, 30)))
    matrix = about_middle((80, 80), (80, 80), 90, 1, np.zeros(2), np.zeros(2))
    result = moved(one, matrix, (80, 80), fill=0)
    expected = turned(turned(one, False, False, True), True, False, False)
    np.testing.assert_array_equal(result.image, expected.image)
    np.testing.assert_array_equal(result.masks, expected.masks)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SCENES)
def test_lists_keep_step(name, size):
    shape = (size, size) if isinstance(size, int) else size
    for seed in range(6):
        for masks in (True, False):
            one = SCENES[name](scene(masks=masks), size, rng(seed))
            fits(one, shape)
            assert len(one.labels) >= 1 and one.image.shape[2] == 3


@pytest.mark.parametrize("name", SCENES)
def test_lists_are_the_generators_alone(name):
    first, again, other = (SCENES[name](scene(), 64, rng(seed, 1, "a")) for seed in (5, 5, 6))
    for a, b in zip(first, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert name == "none" or (first.image != other.image).any()


@pytest.mark.parametrize("channels", [1, 2, 4, 6])
@pytest.mark.parametrize("name", SCENES)
def test_any_number_of_channels(name, channels):
    given = scene(shape=(80, 100, channels), masks=False)
    for seed in range(4):
        one = SCENES[name](given, 64, rng(seed), fill=0)
        fits(one, (64, 64))
        assert one.image.shape == (64, 64, channels)
        if name in {"none", "yolox"}:  # no noise: the channels were alike
            assert (one.image == one.image[..., :1]).all()


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("name", SCENES)
def test_scenes_without_cells(name, masks):
    for seed in range(4):
        one = SCENES[name](scene((), masks=masks), 64, rng(seed))
        fits(one, (64, 64))
        assert len(one.labels) == 0


def test_fixed_boxes_keep_their_sides():
    one = scene(((-20, 30, 80, 130), (100, 120, 200, 220)), (256, 256, 3), masks=False)
    for seed in range(10):
        result = SCENES["riva"](one, 256, rng(seed), keep_size=True)
        assert len(result.boxes) >= 1
        np.testing.assert_allclose(result.boxes[:, 2:] - result.boxes[:, :2], 100, atol=1e-3)
    half = SCENES["riva"](one, 128, rng(0), keep_size=True)
    np.testing.assert_allclose(half.boxes[:, 2:] - half.boxes[:, :2], 50, atol=1e-3)


def test_colours_by_hand():
    red, grey = np.uint8([[[200, 0, 0]]]), np.full((4, 5, 3), 77, np.uint8)
    assert in_hsv(red, np.array([60, 0, 0]), np.ones(3)).tolist() == [[[0, 200, 0]]]  # a third of the circle
    assert in_hsv(red, np.array([-60, 0, 0]), np.ones(3)).tolist() == [[[0, 0, 200]]]
    assert in_hsv(red, np.array([0, 0, 30]), np.array([1, 0, 1])).tolist() == [[[230, 230, 230]]]
    assert in_hsv(red, np.array([0, 0, 90]), np.ones(3)).tolist() == [[[255, 0, 0]]]
    for seed in range(5):
        assert (hue_saturation(grey, rng(seed)) == grey).all()
        ramp = brightness_contrast(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), rng(seed)).ravel().astype(int)
        assert (np.diff(ramp) >= 0).all() and abs(ramp[128] - 128) <= 27 and len(np.unique(ramp)) > 180


def four() -> list[Scene]:
    return [scene(((20, 20, 60, 50),), (80, 100, 3), masks=False, values=[value]) for value in (100, 150, 200, 250)]


def test_mosaic_puts_boxes_on_their_cells():
    """Each cell has a colour of its own, by which its pixels are found."""
    seen = 0
    for seed in range(20):
        parts = [part._replace(labels=np.array([k])) for k, part in enumerate(four())]
        one = mosaic(parts, (96, 128), rng(seed), scales=(0.5, 1.2), fill=0)
        fits(one, (96, 128))
        for label, box in zip(one.labels, one.boxes, strict=True):
            pixels = np.abs(one.image[..., 0].astype(int) - (100 + 50 * label)) < 3
            inside = np.zeros_like(pixels)
            x1, y1, x2, y2 = box.round().astype(int)
            inside[max(y1 - 3, 0) : y2 + 3, max(x1 - 3, 0) : x2 + 3] = True
            if (box > 2).all() and box[2] < 126 and box[3] < 94 and (pixels & inside).sum() > 50:
                np.testing.assert_allclose(box_of(pixels & inside), box, atol=4)
                seen += 1
    assert seen >= 15


def test_mixup_is_the_mean_and_the_union():
    first, other = four()[:2]
    one = mixup(first, other, rng(3), fill=0)
    fits(one, (80, 100))
    assert len(one.labels) == 2
    assert one.image.max() <= 126 and (one.image == 50).any() and (one.image == 75).any()
    pixels = one.image[..., 0] >= 70
    np.testing.assert_allclose(box_of(pixels), one.boxes[1], atol=3)


@pytest.mark.parametrize(("name", "published"), [("riva", (0.05, 0.15, 15)), ("neurons", (0.02, 0.1, 10))])
def test_published_shifts_scales_and_turns(monkeypatch, name, published):
    given = []
    monkeypatch.setattr(scenes, "shift_scale_rotate", lambda one, generator, *more: given.append(more[:3]) or one)
    for seed in range(40):
        SCENES[name](scene(), 64, rng(seed))
    assert set(given) == {published} and 8 < len(given) < 32  # about every second time


def test_yolox_mixes_as_published():
    """Every scene is a mosaic of four; of ten, eight are mixed with a fifth one besides."""
    counts = []
    for seed in range(40):
        others = iter(four() * 2)
        mixed(four()[0], lambda others=others: next(others), 64, rng(seed))
        counts.append(8 - len(list(others)))
    assert set(counts) == {3, 4} and 24 < counts.count(4) < 40


def test_mixed_draws_what_it_needs():
    drawn = []

    def draw() -> Scene:
        drawn.append(1)
        return four()[1]

    assert mixed(four()[0], draw, 64, rng(0), mosaic_odds=0).image.shape == (80, 100, 3) and not drawn
    fits(mixed(four()[0], draw, 64, rng(0), 1, 0), (64, 64))
    assert len(drawn) == 3
    first, again = (mixed(four()[0], draw, 64, rng(1), 1, 1) for _ in range(2))
    assert len(drawn) == 11
    for a, b in zip(first[:3], again[:3], strict=True):
        np.testing.assert_array_equal(a, b)


class Gains:
    """A generator whose gains are chosen."""

    def __init__(self, *values: float):
        self.values = np.array(values)

    def uniform(self, low: float, high: float, size: int) -> np.ndarray:
        assert (low, high, size) == (-0.2, 0.2, 3)
        return self.values


def test_a_stain_of_which_there_is_more_takes_more_light():
    def stained(amounts: list[float]) -> np.ndarray:  # a pixel of so much haematoxylin, eosin and DAB (Beer-Lambert)
        light = 256 * np.exp(-np.array(amounts) @ STAINS) - 1
        return np.rint(light).astype(np.uint8).reshape(1, 1, 3)

    for amounts, gains in (([0.8, 0.0, 0.1], (0.2, 0, 0)), ([0.5, 0.9, 0.0], (-0.1, 0.2, 0.2)), ([1, 1, 1], (0, 0, 0))):
        more = stain(stained(amounts), Gains(*gains))
        assert np.abs(more.astype(int) - stained(np.array(amounts) * (1 + np.array(gains)))).max() <= 2, amounts


def test_what_has_no_colour_is_not_stained():
    grey = np.repeat(rng(0).integers(0, 256, (9, 7, 1), np.uint8), 3, axis=2)
    for image in (grey, grey[..., :1], np.concatenate([grey, grey[..., :1]], axis=2)):
        assert (stain(image, rng(1)) == image).all()
