"""The parts of the loops: orders, batches, schedules, devices, settings."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from engine.data import Batches, Samples, balanced_weights, batches_of, epoch_order, loader
from engine.device import make_fabric
from engine.history import epoch_text
from engine.schedules import STEPS, learning_rate
from engine.settings import claim_folder, read_settings


def indices(batches: Batches) -> list[list[int]]:
    return [[index for _, index in batch] for batch in batches]


def test_batches_by_hand():
    order = np.array([4, 2, 0, 1, 3])
    assert indices(Batches(order, 2)) == [[4, 2], [0, 1], [3]]
    assert indices(Batches(order, 2, drop_last=True)) == [[4, 2], [0, 1]]
    assert indices(Batches(order, 2, start=1)) == [[0, 1], [3]]
    assert indices(Batches(order, 8, drop_last=True)) == [[4, 2, 0, 1, 3]]
    assert indices(Batches(order, 1, rank=1, world=2, drop_last=True)) == [[2], [1]]


@given(count=st.integers(1, 40), size=st.integers(1, 9), start=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_batches_cover_every_sample_once(count, size, start):
    batches = Batches(np.arange(count), size, start=min(start, -(-count // size)))
    seen = [index for batch in indices(batches) for index in batch]
    assert seen == list(range(min(batches.start * size, count), count))
    assert len(indices(batches)) == len(batches)


def test_epoch_order():
    first = epoch_order(100, seed=1, epoch=1)
    assert sorted(first) == list(range(100))
    assert np.array_equal(first, epoch_order(100, 1, 1))
    assert not np.array_equal(first, epoch_order(100, 1, 2))
    drawn = epoch_order(3, 1, 1, weights=np.array([0.0, 1.0, 3.0]), draws=4000)
    share = np.bincount(drawn, minlength=3) / 4000
    np.testing.assert_allclose(share, [0, 0.25, 0.75], atol=0.03)


def test_balanced_weights_count_by_the_rarest_class():
    targets = np.array([[1, 0], [1, 0], [1, 0], [1, 1]], np.float32)
    assert balanced_weights(targets).tolist() == [0.25, 0.25, 0.25, 1.0]


@pytest.mark.parametrize(
    ("scheduler", "epoch", "rate"),
    [
        ("AdamAndrew35", 1, 3e-4), ("AdamAndrew35", 2, 3e-4), ("AdamAndrew35", 3, 1.5e-4), ("AdamAndrew35", 11, 1e-4),
        ("AdamAndrew35", 16, 5e-6), ("AdamAndrew35", 21, 1e-6), ("AdamAndrew35", 35, 5e-7),
        ("Adam45", 5, 3e-4), ("Adam45", 6, 1.5e-4), ("Adam45", 41, 5e-8), ("Adam20", 8, 1.5e-4), ("Adam20", 17, 5e-6),
    ],
)  # fmt: skip
def test_published_schedules(scheduler, epoch, rate):
    assert learning_rate(scheduler, epoch) == rate


@pytest.mark.parametrize("scheduler", STEPS)
def test_schedules_only_fall(scheduler):
    rates = [learning_rate(scheduler, epoch) for epoch in range(1, 60)]
    assert rates == sorted(rates, reverse=True)


class Shades:
    """A reader whose image says its key."""

    def __call__(self, key, size):
        if key == "bad":
            raise UserError("image bad is damaged")
        return np.full((size, size, 4), int(key), np.uint8)


def flipped(image, crop_size, generator):
    return image[:crop_size, :crop_size] + generator.integers(3, dtype=np.uint8)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_do_not_depend_on_workers_or_batches(workers):
    samples = Samples(Shades(), [str(key) for key in range(9)], None, flipped, img_size=8, crop_size=4, seed=5)
    seen = {}
    for size in (2, 5):
        for images, _, index in loader(samples, Batches(np.arange(9), size, epoch=3), workers):
            assert images.shape[1:] == (4, 4, 4)
            for image, row in zip(images, index.tolist(), strict=True):
                assert seen.setdefault(row, image).equal(image)
    assert len(seen) == 9


@pytest.mark.parametrize("workers", [0, 1])
def test_a_worker_s_error_is_one_sentence(workers):
    samples = Samples(Shades(), ["bad"], None, flipped, img_size=8, crop_size=4)
    with pytest.raises(UserError) as error:
        list(batches_of(loader(samples, Batches(np.arange(1), 1), workers)))
    assert str(error.value) == "image bad is damaged"


def test_devices():
    assert make_fabric("cpu", True).device.type == "cpu"
    with pytest.raises(UserError, match="--gpu_id x"):
        make_fabric("x", True)
    if not torch.cuda.is_available():
        assert make_fabric("0,1", True).device.type == "cpu"


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="--gpu_id 0,3: this machine has the GPUs 0 to 0 only"):
        make_fabric("0,3", True)


def test_settings_of_a_run_cannot_change_silently(tmp_path):
    claim_folder(tmp_path, {"loss": "Focal", "workers": 1, "epochs": 2})
    claim_folder(tmp_path, {"loss": "BCE", "workers": 1, "epochs": 2})  # nothing was trained yet: no run to protect
    (tmp_path / "001.pth").touch()
    claim_folder(tmp_path, {"loss": "BCE", "workers": 4, "epochs": 3})
    assert read_settings(tmp_path / "settings.json")["epochs"] == 3
    with pytest.raises(UserError, match="other settings .--loss BCE -> Focal."):
        claim_folder(tmp_path, {"loss": "Focal", "workers": 4, "epochs": 3})


def test_epoch_text_leaves_classes_without_positives_out():
    row = {"epoch": 2, "lr": 1e-4, "train_loss": 1.0, "valid_loss": 2.0, "pr_auc": 0.4}
    row |= {"AP a": 0.5, "AP b": np.nan, "AP c": 0.3}
    text = epoch_text(row, ["a", "b", "c"], best=2)
    assert text.endswith("PR-AUC 0.4000 (best)\n    AP: c 0.300, a 0.500")
