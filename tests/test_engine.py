"""The parts of the loops: orders, batches, schedules, devices, settings."""

import numpy as np
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning_fabric import Fabric

from common.errors import UserError
from engine.data import Batches, Samples, balanced_weights, batches_of, epoch_order, loader
from engine.device import Autocast, make_fabric
from engine.history import epoch_text
from engine.optimizers import batch_norms, freeze_but_last, make_optimizer
from engine.schedules import STEPS, Span, learning_rate, make_rate
from engine.settings import claim_folder, read_settings


def indices(batches: Batches) -> list[list[int]]:
    return [[item.index for item in batch] for batch in batches]


def test_batches_by_hand():
    order = np.array([4, 2, 0, 1, 3])
    assert indices(Batches(order, 2)) == [[4, 2], [0, 1], [3]]
    assert indices(Batches(order, 2, drop_last=True)) == [[4, 2], [0, 1]]
    assert indices(Batches(order, 2, start=1)) == [[0, 1], [3]]
    assert indices(Batches(order, 8, drop_last=True)) == [[4, 2, 0, 1, 3]]
    assert indices(Batches(order, 1, rank=1, world=2, drop_last=True)) == [[2], [1]]


def test_a_sample_that_is_drawn_again_is_changed_anew():
    order = np.array([4, 2, 4, 4, 2, 0])
    every = [item for batch in Batches(order, 2, epoch=7) for item in batch]
    assert every == [(7, 4, 0), (7, 2, 0), (7, 4, 1), (7, 4, 2), (7, 2, 1), (7, 0, 0)]
    assert [item for batch in Batches(order, 2, epoch=7, start=1) for item in batch] == every[2:]  # after a restart
    noise = lambda image, size, generator: generator.integers(256, size=(size, size, 1), dtype=np.uint8)  # noqa: E731
    samples = Samples(Shades(), ["1"], None, noise, img_size=8, crop_size=4)
    first, second, again = (samples[item][0] for item in ((1, 0), (1, 0, 1), (1, 0)))
    assert torch.equal(first, again) and not torch.equal(first, second)


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
    assert balanced_weights(targets, 0.5).tolist() == [0.5, 0.5, 0.5, 1.0]
    assert balanced_weights(targets, 0).tolist() == [1.0] * 4


def test_balanced_weights_of_soft_targets():
    """A half is enough, as for pseudolabels.py --floor; without any class every sample counts alike."""
    soft = np.array([[0.5, 0], [0.6, 0.1], [0.9, 0], [0.5, 0.7]], np.float32)
    assert balanced_weights(soft).tolist() == [0.25, 0.25, 0.25, 1.0]
    assert balanced_weights(soft * 0.5).tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("scheduler", "rates"),  # from the epochs on
    [
        ("AdamAndrew35", {1: 3e-4, 3: 1.5e-4, 11: 1e-4, 16: 5e-6, 21: 1e-6, 26: 5e-7}),
        ("Adam45", {1: 3e-4, 6: 1.5e-4, 11: 5e-5, 16: 1e-5, 21: 5e-6, 26: 1e-6, 31: 5e-7, 36: 1e-7, 41: 5e-8}),
        ("Adam20", {1: 1.5e-4, 9: 5e-5, 13: 1e-5, 17: 5e-6}),
    ],
)
def test_published_schedules(scheduler, rates):
    for first, rate in rates.items():
        assert learning_rate(scheduler, first) == rate
        assert first == 1 or learning_rate(scheduler, first - 1) != rate
    assert learning_rate(scheduler, 99) == list(rates.values())[-1]


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


def test_mixed_precision_leaves_boxes_as_they_are():
    class Seen(torch.nn.Linear):
        def forward(self, images, targets):
            return super().forward(images).dtype, targets[0]["boxes"]

    fabric = Fabric(accelerator="cpu", devices=1, plugins=[Autocast("16-mixed", "cpu")])
    boxes = torch.tensor([[1100.3, 2300.3, 1115.3, 2316.6]])
    kind, seen = fabric.setup(Seen(2, 2))(torch.ones(1, 2), [{"boxes": boxes}])
    assert kind == torch.float16 and torch.equal(seen, boxes)


def test_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(UserError, match="--gpu_id 0,3: this machine has the GPUs 0 to 0 only"):
        make_fabric("0,3", True)


def test_settings_of_a_run_cannot_change_silently(tmp_path):
    claim_folder(tmp_path, {"loss": "Focal", "workers": 1, "epochs": 2}, {})
    claim_folder(tmp_path, {"loss": "BCE", "workers": 1, "epochs": 2}, {})  # nothing was trained yet: no run to protect
    (tmp_path / "001.pth").touch()
    claim_folder(tmp_path, {"loss": "BCE", "workers": 4, "epochs": 3}, {})
    assert read_settings(tmp_path / "settings.json")["epochs"] == 3
    with pytest.raises(UserError, match="other settings .--loss BCE -> Focal."):
        claim_folder(tmp_path, {"loss": "Focal", "workers": 4, "epochs": 3}, {})
    claim_folder(tmp_path, {"loss": "BCE", "workers": 4, "epochs": 3, "swa_start": 0}, {})  # newer, and off
    with pytest.raises(UserError, match="other settings .--ema None -> 0.9."):
        claim_folder(tmp_path, {"loss": "BCE", "workers": 4, "epochs": 3, "swa_start": 0, "ema": 0.9}, {})


def test_a_run_keeps_its_tables(tmp_path):
    flags = {"loss": "BCE"}
    claim_folder(tmp_path, flags, {})
    (tmp_path / "last.pth").touch()
    claim_folder(tmp_path, flags, {"--split_name": "a"})  # a run of before they were noted
    claim_folder(tmp_path, flags, {"--split_name": "a"})
    for changed in ({"--split_name": "b"}, {"--split_name": "a", "--labelmask": "c"}):
        flag = list(changed)[-1]
        with pytest.raises(UserError, match=f"learned from other files: what {flag} names has changed since"):
            claim_folder(tmp_path, flags, changed)


def test_epoch_text_leaves_classes_without_positives_out():
    row = {"epoch": 2, "lr": 1e-3, "train_loss": 0.5, "skipped": 0, "valid_loss": 0.25, "pr_auc": 0.75}
    row |= {"AP a": 1.0, "AP b": float("nan"), "AP c": 0.5}
    text = epoch_text(row, "pr_auc", best=2)
    assert text.splitlines() == [
        "epoch   2  lr 1.0e-03  train loss 0.5000  valid loss 0.2500  pr_auc 0.7500 (best)",
        "    AP: c 0.500, a 1.000",
    ]
    assert "skipped 3" in epoch_text(row | {"skipped": 3}, "pr_auc", best=1)


def test_shapes_of_schedules_by_hand():
    rate = make_rate("cosine", 2.0, "", Span(epochs=5, warmup=1, final=0.5))
    assert [round(rate(done, []), 6) for done in (0, 0.5, 1, 3, 5)] == [0.002, 1.0, 2.0, 1.5, 1.0]
    rate = make_rate("onecycle", 1.0, "", Span(epochs=10))
    assert [round(rate(done, []), 6) for done in (0, 1.5, 3, 6.5, 10)] == [0.04, 0.52, 1.0, 0.500002, 0.000004]
    rate = make_rate("plateau", 1.0, "score", Span(epochs=10))
    history = [{"score": value} for value in (1, 2, 2, 2, 2, 1, 1, 1)]
    assert [rate(0, history[:end]) for end in (0, 2, 4, 5, 7, 8)] == [1, 1, 1, 0.5, 0.5, 0.25]
    assert make_rate("AdamAndrew35", 3e-3, "", Span(epochs=35))(2.5, []) == pytest.approx(1.5e-3)


def test_the_one_cycle_is_torchs():
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    torchs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=101, final_div_factor=1e4)
    rate = make_rate("onecycle", 1.0, "", Span(epochs=1))
    for step in range(100):
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate(step / 100, []), abs=0.05)
        optimizer.step()
        torchs.step()


def test_groups_of_weights():
    model = torch.nn.ModuleDict({"backbone": torch.nn.Linear(2, 2), "head": torch.nn.Linear(2, 2)})
    optimizer = make_optimizer("AdamW", model, weight_decay=0.1, backbone_lr=0.5)
    groups = {(group["scale"], group["weight_decay"]): len(group["params"]) for group in optimizer.param_groups}
    assert groups == {(0.5, 0.1): 1, (0.5, 0.0): 1, (1.0, 0.1): 1, (1.0, 0.0): 1}
    with pytest.raises(UserError, match="--backbone_lr 0.5: this network has no part called backbone"):
        make_optimizer("SGD", model["head"], backbone_lr=0.5)


def test_only_the_last_blocks_are_trained():
    net = timm.create_model("test_vit", num_classes=3)
    freeze_but_last(net, 1)
    trained = {name.rsplit(".", 1)[0] for name, weight in net.named_parameters() if weight.requires_grad}
    last = f"blocks.{len(net.blocks) - 1}."
    assert trained and all(name.startswith((last, "norm", "fc_norm", "head")) for name in trained)
    assert any(name.startswith(last) for name in trained) and "head" in trained
    with pytest.raises(UserError, match="--train_blocks 1: this network has no row of blocks"):
        freeze_but_last(torch.nn.Linear(1, 1), 1)
    with pytest.raises(UserError, match="--freeze_norms: this network has no batch norms in a part called backbone"):
        batch_norms(torch.nn.BatchNorm1d(1))
