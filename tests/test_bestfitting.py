"""DenseNets of the 2018 competition: their files load, train on, and predict untrained in the new classes."""

import re

import numpy as np
import pandas as pd
import pytest
import torch
from small_data import make_small_data, predict_flags, train_flags
from torch import nn
from torch.nn import functional
from torchvision.models import densenet121

import test as predict
import train
from augment.crops import whole
from common.errors import UserError
from competitions import hpa
from engine import checkpoints
from engine.samples import CropReader
from models import build
from models.bestfitting import LAST, load_bestfitting, new_logits, read_bestfitting


class Published(nn.Module):
    """The published network as its files are laid out: every feature weight under two names."""

    def __init__(self, classes: int):
        super().__init__()
        self.backbone = densenet121()
        parts = self.backbone.features
        parts.conv0 = nn.Conv2d(4, 64, 7, 2, 3, bias=False)
        self.conv1 = nn.Sequential(parts.conv0, parts.norm0, parts.relu0, parts.pool0)
        self.encoder2 = nn.Sequential(parts.denseblock1)
        self.encoder3 = nn.Sequential(parts.transition1, parts.denseblock2)
        self.encoder4 = nn.Sequential(parts.transition2, parts.denseblock3)
        self.encoder5 = nn.Sequential(parts.transition3, parts.denseblock4, parts.norm5)
        self.bn1, self.fc1 = nn.BatchNorm1d(2048), nn.Linear(2048, 1024)
        self.bn2, self.logit = nn.BatchNorm1d(1024), nn.Linear(1024, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stages = (self.conv1, self.encoder2, self.encoder3, self.encoder4, self.encoder5)
        maps = functional.relu(nn.Sequential(*stages)(images))
        pooled = torch.cat([maps.mean((2, 3)), maps.flatten(2).max(2).values], 1)
        return self.logit(self.bn2(functional.relu(self.fc1(self.bn1(pooled)))))


@pytest.fixture(scope="module")
def published() -> Published:
    """With random batch statistics, so that a norm in the wrong place shows."""
    torch.manual_seed(0)
    net = Published(classes=28).eval()
    for name, value in net.named_buffers():
        if "running" in name:
            value.uniform_(0.5, 1.5)
    return net


@pytest.fixture(scope="module")
def file(published, tmp_path_factory):
    """As torch wrote it in 2018: old names, below `module.`, without num_batches_tracked, in a container."""
    state = {
        "module." + re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): value
        for name, value in published.state_dict().items() if not name.endswith("num_batches_tracked")
    }  # fmt: skip
    path = tmp_path_factory.mktemp("weights") / "0.pth"
    torch.save({"epoch": 40, "best": 0.7, "state_dict": state}, path)
    return path


def test_our_network_gives_the_published_one_s_logits(published, file):
    net = build("class_densenet121_dropout", 28, 4, 64).eval()
    assert load_bestfitting(net, read_bestfitting(file, "--resume"), "--resume x") == []
    images = torch.randn(2, 4, 64, 64)
    torch.testing.assert_close(net(images), published(images), rtol=1e-4, atol=1e-4)


def test_large_networks_take_the_same_files(file):
    net = build("class_densenet121_large_dropout", 19, 4, 64)
    assert load_bestfitting(net, read_bestfitting(file, "--resume"), "--resume x") == list(LAST)


def test_what_does_not_fit_is_named(file, tmp_path):
    net = build("class_densenet169_dropout", 19, 4, 64)
    with pytest.raises(UserError, match="--resume x does not fit --arch: .* weights are missing there .*denseblock"):
        load_bestfitting(net, read_bestfitting(file, "--resume"), "--resume x")
    other = tmp_path / "other.pth"
    torch.save(nn.Linear(2, 2).state_dict(), other)
    with pytest.raises(UserError, match="other.pth is no DenseNet of the 2018 competition: it lacks logit.bias"):
        read_bestfitting(other, "--resume")


def test_old_classes_as_published():
    same = [(old,) for old in range(8)]
    others = [(11,), (12, 13), (14,), (17,), (19,), (21, 22), (23,), (24,), (25,), (8, 9, 10, 20, 26)]
    assert list(hpa.OLD_CLASSES) == [*same, *others]


def test_new_classes_by_hand():
    probs = np.full((1, 28), 0.0)
    probs[0, [0, 11, 12, 13, 8, 26]] = 0.5, 0.25, 0.5, 0.5, 0.2, 0.5
    new = new_logits(torch.from_numpy(probs).logit(eps=1e-12), hpa.OLD_CLASSES).sigmoid().numpy()[0]
    expected = np.zeros(19)
    expected[[0, 8, 9]] = 0.5, 0.25, 0.75  # 1 - 1/2 x 1/2
    expected[17] = 1 - 0.8 * 0.5
    expected[18] = 0.5 * 0.75 * 0.25 * 0.8 * 0.5  # none of the old ones
    np.testing.assert_allclose(new, expected, atol=1e-6)


def test_new_classes_are_probabilities_at_any_logit():
    logits = torch.tensor([-300.0, -90.0, -20.0, 0.0, 20.0, 90.0, 300.0])[:, None].expand(-1, 28)
    new = new_logits(logits, hpa.OLD_CLASSES)
    assert new.isfinite().all() and new.shape == (7, 19)
    slow = 1 - (1 - logits[:, :2].double().sigmoid()).prod(1)
    torch.testing.assert_close(new[:, 9].sigmoid().double(), slow, atol=1e-6, rtol=1e-4)


ARCH = ["--arch", "class_densenet121_dropout", "--img_size", "40", "--crop_size", "32"]


def test_training_starts_from_it(file, tmp_path, capsys):
    data = make_small_data(tmp_path, images=6, cells=1)
    start = ["--resume", str(file), "--preload", "bestfitting", "--epochs", "1", "--lr", "1e-12", *ARCH]
    train.main(train_flags(data, *start))
    assert "layers with a random start: head.layers.6.weight, head.layers.6.bias" in capsys.readouterr().out
    saved = checkpoints.read(tmp_path / "results/models/run/fold0/001.pth", "")["model"]
    block = "features.denseblock3.denselayer4.conv1.weight"
    torch.testing.assert_close(
        saved[f"net.backbone.{block}"], read_bestfitting(file, "")[f"backbone.{block}"], atol=1e-6, rtol=0
    )


def test_prediction_without_training(published, file, tmp_path):
    data = make_small_data(tmp_path, images=2, cells=1)
    flags = ["--network_path", str(file), "--preload", "bestfitting", "--dataset", "test", "--cellorimage", "cell"]
    predict.main(predict_flags(data, *flags, *ARCH))
    folder = tmp_path / "results/submissions/run/fold0/epoch_000/default_seed0"
    with np.load(folder / "prob_test.npz") as raw:
        probs = pd.DataFrame(raw["probs"], raw["ids"])
    reader, mean, std = CropReader([data / "crops" / "test"]), np.array(hpa.MEAN), np.array(hpa.STD)
    images = [(whole(reader(key, 40), 32, None) / 255 - mean) / std for key in probs.index]
    images = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float()
    expected = new_logits(published(images), hpa.OLD_CLASSES).sigmoid().detach().numpy()
    np.testing.assert_allclose(probs.to_numpy(), expected, rtol=1e-3, atol=1e-5)
    with pytest.raises(UserError, match="--preload bestfitting needs --network_path"):
        predict.main(predict_flags(data, "--preload", "bestfitting"))
    with pytest.raises(UserError, match="--preload bestfitting: its classes are not those of cytologia; hpa is right"):
        predict.main(predict_flags(data, *flags, *ARCH, "--competition", "cytologia"))
    state = torch.load(file)["state_dict"] | {"module.logit.bias": torch.ones(5)}
    torch.save(state, tmp_path / "five.pth")
    with pytest.raises(UserError, match="five.pth knows 5 classes; 28 or 19 are right"):
        predict.main(predict_flags(data, *flags, *ARCH, "--network_path", str(tmp_path / "five.pth")))
