"""Images with class maps: changes in step, stages by epoch, sizes, MixUp, tiles, samples, weight averaging."""

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_blobs import CLASSES, make_small_blobs

import competitions
from augment import maps
from augment.maps import (
    BLURS,
    MAPS,
    ZOOM,
    MapMixup,
    bent,
    canvas_in,
    elastic,
    grid_distortion,
    grid_of,
    pannuke,
    placed,
    scaled_part,
    shift_scale_rotate,
    window,
)
from cells.crops import stretched
from cells.pieces import batches
from cells.regions import label_areas
from cells.tiling import is_whole, taper, tile_corners
from common.errors import UserError
from common.seeds import rng
from engine.averages import refresh
from engine.maps import Maps
from engine.schedules import annealed


def pair(shape=(64, 64), channels=3):
    """A map of class 0 on background 2, and an image that shows it."""
    labels = np.full(shape, 2, np.uint8)
    cv2.ellipse(labels, (shape[1] // 2, shape[0] // 3), (14, 9), 20, 0, 360, 0, -1)
    image = np.where(labels == 0, 220, 30).astype(np.uint8)
    return np.repeat(image[..., None], channels, 2), labels


@pytest.mark.parametrize("name", sorted(set(MAPS) - {"nuclei"}))
@pytest.mark.parametrize("channels", [3, 5])
def test_changes_keep_step(name, channels):
    for seed in range(6):
        image, labels = pair(channels=channels)
        new, changed = MAPS[name](image, labels, rng(seed), 7)
        again, _ = MAPS[name](image, labels, rng(seed), 7)
        assert new.shape == image.shape and new.dtype == np.uint8 and np.array_equal(new, again)
        assert set(np.unique(changed)) <= {0, 2} and changed.dtype == np.uint8
        inside = new.mean(2) > 125
        union = (inside | (changed == 0)).sum()
        assert (inside & (changed == 0)).sum() > 0.85 * union


def test_nuclei_of_any_stain_keep_step():
    dark = []
    for seed in range(30):
        new, changed = MAPS["nuclei"](*pair(), rng(seed), 1)
        inside, outside = (new.mean(2)[where].mean() for where in (changed == 0, changed == 2))
        assert abs(inside - outside) > 30 and set(np.unique(changed)) <= {0, 2}
        dark.append(inside < outside)
    assert 0 < sum(dark) < 15  # now and then dark for bright


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(0, 1000))
def test_windows_keep_step(height, width, seed):
    labels = rng(seed, "map").integers(1, 200, (height, width)).astype(np.uint16)
    image = np.repeat(labels[..., None], 3, 2).astype(np.uint8)
    new, changed = window(image, labels, (64, 32), 0.5, 0, rng(seed))
    assert new.shape == (64, 32, 3) and changed.shape == (64, 32) and changed.dtype == np.uint16
    assert (new[changed == 0] == 114).all() and (changed > 0).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(20, 90), st.integers(20, 90), st.floats(0.2, 5), st.integers(0, 1000))
def test_a_scaled_part_is_that_of_the_whole_scaled(height, width, zoom, seed):
    """Ramps tell where a pixel comes from: to within a pixel or two the same place."""
    rows, columns = np.mgrid[:height, :width]
    image, labels = np.dstack([rows, columns]).astype(np.uint8), (rows * 100 + columns).astype(np.uint16)
    size = np.array([max(round(side * zoom), 1) for side in (height, width)])
    shape = np.minimum(rng(seed).integers(1, 64, 2), size)
    corner = rng(seed, "corner").integers(0, size - shape + 1)
    part, own = scaled_part(image, labels, size, corner, shape)
    assert part.shape == (*shape, 2) and own.shape == tuple(shape)
    places = np.mgrid[: shape[0], : shape[1]] + corner[:, None, None] + 0.5
    near = 0.51 + 2 / zoom  # nearest pixel; offset and size are rounded
    for axis, side in enumerate((height, width)):
        expected = np.clip(places[axis] * side / size[axis] - 0.5, 0, side - 1)
        assert np.abs(part[..., axis] - expected).max() <= near
        assert np.abs((own // 100, own % 100)[axis] - expected).max() <= near


def test_windows_are_of_all_places_and_sizes():
    image, labels = np.zeros((100, 100, 3), np.uint8), np.arange(1, 10001, dtype=np.uint16).reshape(100, 100)
    corners, steps = [], []
    for seed in range(60):
        changed = window(image, labels, (32, 32), 1.0, 0, rng(seed))[1].astype(int) - 1
        corners.append(changed[0, 0])
        steps.append((changed[0, -1] - changed[0, 0]) / 31)
    rows, columns = np.divmod(corners, 100)
    assert rows.min() < 15 and columns.min() < 15 and rows.max() > 55 and columns.max() > 55
    low, high = 1 / np.array(ZOOM)[::-1]
    assert low * 0.9 < min(steps) < 0.75 and 1.4 < max(steps) < high * 1.1


def test_stages():
    image, labels = pair()
    early = [pannuke(image, labels, rng(seed), 1) for seed in range(8)]
    assert all(np.unique(one).tolist() == [30, 220] for one, _ in early)  # pixels only change their places
    assert all((changed == 0).sum() == (labels == 0).sum() for _, changed in early)
    late = [pannuke(image, labels, rng(seed), BLURS)[0] for seed in range(8)]
    assert any(len(np.unique(one)) > 10 for one in late)


@pytest.mark.parametrize(("epoch", "stages"), [(5, 0), (6, 1), (10, 1), (11, 2), (15, 2), (16, 3)])
def test_stages_begin_with_their_epochs(monkeypatch, epoch, stages):
    used = set()

    def note(name: str, own: Callable) -> Callable:
        return lambda *given: used.add(name) or own(*given)

    parts = [("shift_scale_rotate", "grid_distortion", "elastic"), ("brightness_contrast", "hue_saturation"),
             ("noise", "blur")]  # fmt: skip
    for name in sum(parts, ()):
        monkeypatch.setattr(maps, name, note(name, getattr(maps, name)))
    for seed in range(60):
        pannuke(*pair(), rng(seed), epoch)
    assert used == {name for part in parts[:stages] for name in part}


@pytest.mark.parametrize("change", [shift_scale_rotate, grid_distortion, elastic])
def test_distortions_are_places(change):
    places = change((40, 60), rng(1))
    assert places.shape == (2, 40, 60) and np.isfinite(places).all()
    assert 0.5 < np.abs(places - grid_of((40, 60))).max() < 45


def test_bent_by_hand():
    image, labels = np.arange(12, dtype=np.uint8).reshape(3, 4, 1), np.arange(12, dtype=np.uint8).reshape(3, 4)
    x, y = grid_of((3, 4))
    same = bent(image, labels, x, y)
    assert np.array_equal(same[0], image) and np.array_equal(same[1], labels)
    moved, changed = bent(image, labels, x + 1, y)  # beyond the border the pixel before the last one again
    assert moved[0, :, 0].tolist() == changed[0].tolist() == [1, 2, 3, 2]


def test_placed_fills_with_background():
    image, labels = pair((30, 60))
    new, changed = placed(image, labels, (32, 32), 2)
    assert new.shape == (32, 32, 3) and (changed[16:] == 2).all() and (new[16:] == 114).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(32, 256), st.integers(1, 80))
def test_sizes_grow_in_steps(epochs, first, epoch):
    side, other = canvas_in(epoch, epochs, first, (256, 192))
    assert side % 32 == other % 32 == 0 and 32 <= other <= side <= 256
    assert canvas_in(epoch + 1, epochs, first, (256, 192)) >= (side, other)
    if epoch > 0.7 * epochs + 1:
        assert (side, other) == (256, 192)
    assert canvas_in(epoch, epochs, 0, (256, 192)) == (256, 192)


def test_mixup_of_maps_by_hand():
    images, targets = torch.tensor([0.0, 100.0]).view(2, 1, 1, 1), torch.tensor([0, 2]).view(2, 1, 1)
    mix = MapMixup(0.4, 1.0, 3)
    new, mixed = next(pair for pair in (mix(images, targets, rng(seed)) for seed in range(20)) if pair[0][0] > 0)
    share = 1 - new[0].item() / 100
    torch.testing.assert_close(mixed[0].flatten(), torch.tensor([share, 0, 1 - share]))
    torch.testing.assert_close(mixed.sum(1), torch.ones(2, 1, 1))
    assert MapMixup(0.4, 0.0, 3)(images, targets, rng(1))[1] is targets
    with pytest.raises(UserError, match="--mixup 0"):
        MapMixup(0, 0.5, 3)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(8, 100))
def test_tiles_cover_and_overlap(height, width, side):
    seen = np.zeros((height, width))
    rows = set()
    for y, x in tile_corners((height, width), side):
        tile = seen[y : y + side, x : x + side]
        tile += taper(*tile.shape)
        rows.add(y)
    assert (seen > 0).all()
    rows = sorted(rows)
    assert all(0 < after - before <= side - side // 4 for before, after in pairwise(rows))


def test_finds_at_tiles_edges():
    boxes = np.array([[0, 10, 9, 20], [0, 10, 60, 20], [30, 30, 40, 40], [90, 5, 100, 9]], np.float32)
    inner = is_whole(boxes, (0, 50), (100, 100), (100, 200))
    assert inner.tolist() == [False, True, True, False]  # the second is wider than what a neighbour sees of it
    assert is_whole(boxes, (0, 0), (100, 100), (100, 100)).all()  # the image ends there


def test_samples_from_tables(tmp_path):
    folder = make_small_blobs(tmp_path / "data", images=2)
    competition = competitions.get("neurons", CLASSES)
    cells = competition.read_cells(folder / "train.csv", root=folder / "images")
    data = Maps(competition, folder / "images", ["0", "1"], cells, MAPS["none"], lambda epoch: (64 // epoch, 96), False)
    image, labels, index = data[1, 1]
    assert image.shape == (3, 64, 96) and labels.shape == (64, 96) and index == 1
    assert torch.equal(labels == 0, image[0] > 100)
    assert data[2, 0][1].shape == (32, 96)
    assert len(np.unique(data.instances("0"))) == 4
    assert (
        data.pixels().sum() == 2 * 64 * 96
        and data.pixels()[0] == (data.instances("0") > 0).sum() + (data.instances("1") > 0).sum()
    )


def test_samples_of_depths_at_a_scale(tmp_path):
    folder = make_small_blobs(tmp_path / "data", images=1)
    competition = competitions.get("neurons", CLASSES)
    cells = competition.read_cells(folder / "train.csv", root=folder / "images")
    common = competition, folder / "images", ["0"], cells, MAPS["none"]
    whole = Maps(*common, None, False, depths=True, scale=2.0)
    image, shares, _ = whole[1, 0]
    assert image.shape == shares.shape == (3, 128, 192) and shares.sum(0).numpy() == pytest.approx(1)
    assert torch.equal(shares[2] == 0, image[0] > 114) and set(shares[2].unique().tolist()) == {0, 1}
    windows = Maps(*common, lambda epoch: (32, 32), False, depths=True, scale=2.0)
    assert windows[1, 0][0].shape == (3, 32, 32) and not torch.equal(windows[1, 0][0], windows[2, 0][0])
    touching, types = np.zeros((9, 20), np.uint16), np.array([1, 0, 0])
    touching[1:8, 1:8], touching[1:8, 8:15] = 1, 2
    inside, beside, outside = whole.target(touching, types)[:, 4].tolist()
    assert outside == [1, *[0] * 14, *[1] * 5]
    assert inside[:9] == pytest.approx([0, 1 / 7, 3 / 7, 5 / 7, 1, 5 / 7, 3 / 7, 1 / 7, 1 / 7])
    assert [sum(own) for own in zip(inside, beside, outside, strict=True)] == pytest.approx([1] * 20)
    assert whole.pixels().sum() == pytest.approx(64 * 96)


def test_samples_at_the_scale_of_their_cells(tmp_path):
    folder = make_small_blobs(tmp_path / "data", images=1)
    competition = competitions.get("neurons", CLASSES)
    cells = competition.read_cells(folder / "train.csv", root=folder / "images")
    data = Maps(competition, folder / "images", ["0"], cells, MAPS["none"], None, False, scale=9.0)
    truth = data.instances("0").max(2)
    area = np.median(label_areas(truth)[truth[truth > 0]])
    data.diameter = 0.5 * np.sqrt(area * 4 / np.pi)
    assert data[1, 0][0].shape == (3, 32, 64)  # half of 64 x 96, in multiples of 32


def test_stretched_by_hand():
    image = np.arange(101, dtype=np.uint8).repeat(3).reshape(1, 101, 3)  # percentiles 1 and 99 are 1 and 99
    assert stretched(image, 0, 100)[0, [0, 40, 100], 0].tolist() == [0, 102, 255]
    assert stretched(image, 1, 99)[0, [0, 1, 40, 99, 100], 0].tolist() == [0, 0, 101, 255, 255]
    assert (stretched(np.full((2, 2, 3), 7, np.uint8)) == 7).all()
    red = np.zeros((10, 10, 3), np.uint8)
    red[:5, :, 0], red[:5, :, 1] = 100, 40
    assert stretched(red)[0, 0].tolist() == [255, 102, 0]  # the colour stays


def test_samples_are_stretched(tmp_path):
    folder = make_small_blobs(tmp_path / "data", images=1)
    competition = competitions.get("neurons", CLASSES)
    cells = competition.read_cells(folder / "train.csv", root=folder / "images")
    common = competition, folder / "images", ["0"], cells, MAPS["none"], lambda epoch: (64, 96), False
    plain, wide = Maps(*common)[1, 0][0], Maps(*common, stretch=True)[1, 0][0]
    assert torch.equal(wide, torch.from_numpy(stretched(plain.permute(1, 2, 0).numpy())).permute(2, 0, 1))
    assert wide.min() == 0 and wide.max() == 255 and plain.min() > 0


@pytest.mark.parametrize("raw", [True, False])
def test_training_and_finding_prepare_alike(monkeypatch, raw):
    competition = competitions.get("pannuke", "cell")
    image = rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    monkeypatch.setattr(type(competition), "read_image", lambda *_: image, raising=False)
    monkeypatch.setattr(type(competition), "read_masks", lambda *_: np.ones((64, 64, 1), np.int32), raising=False)
    samples = Maps(competition, "", ["0"], None, MAPS["none"], lambda epoch: (64, 64), False, raw=raw)
    right = image if raw else competition.prepare_image(image)
    trained = {"img_size": 64, "competition": "pannuke", "raw": raw}
    _, seen = next(batches([image], trained, 0, torch.device("cpu")))
    for own in (samples[1, 0][0], seen[0]):
        np.testing.assert_array_equal(own.permute(1, 2, 0), right)
    if not raw:
        del trained["raw"]  # older checkpoints do not say
        assert torch.equal(next(batches([image], trained, 0, torch.device("cpu")))[1], seen)


def test_rate_of_the_averaged_phase():
    rate = annealed(lambda done, history: 1.0 - done / 100, 10, 0.1, 4)
    assert [round(rate(done, []), 4) for done in (0, 9, 10, 12, 14, 30)] == [1.0, 0.91, 0.9, 0.5, 0.1, 0.1]


def test_running_means_are_recomputed():
    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm2d(1)

        def forward(self, images, targets=None):
            out = self.norm(images)
            return {"loss": (out - targets).mean()} if self.training else {"map": out}

    average = torch.optim.swa_utils.AveragedModel(Tiny())
    batches = [(torch.full((2, 1, 2, 2), value), torch.zeros(1), None) for value in (1.0, 3.0)]
    refresh(average, batches)
    assert average.module.norm.running_mean.item() == pytest.approx(2.0)
