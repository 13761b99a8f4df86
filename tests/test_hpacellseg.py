"""The finder `hpacellseg` end to end, with networks whose weights are set by hand so that they see brightness.

All weights are zero but for a path through the stem, the last skip connection and the last convolutions: what comes
out is known, the files are small (a stretched zero is stored once), the network runs whole.
"""

import pickle
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from skimage.transform import rescale

import segment
from cells.hpacellseg import MEAN, STD, Segmentator, shrink
from cells.segmentator_labels import Prediction, Rules, label_image
from common.errors import UserError
from models.dpn_unet import DpnUnet, dpn_unet

GAIN, LEVEL = 40.0, 0.3
COLORS = ("red", "green", "blue", "yellow")


def seeing_weights(shares, level=LEVEL):
    """Weights of a network whose interior logit is GAIN x (sum of shares x channels - level), over 2x2 pixels."""
    with torch.device("meta"):
        shapes = DpnUnet().state_dict()
    weights = {name: torch.zeros(()).expand(value.shape) for name, value in shapes.items()}
    for name in ("encoder_stages.0.0.weight", "encoder_stages.0.1.weight", "encoder_stages.0.1.running_var",
                 "encoder_stages.0.1.bias", "bottlenecks.3.seq.0.weight", "last_upsample.layer.1.weight",
                 "final.0.weight", "final.0.bias"):  # fmt: skip
        weights[name] = weights[name].clone()
    stem = weights["encoder_stages.0.0.weight"]
    stem[0, :, 3:5, 3:5] = torch.tensor(shares)[:, None, None] * STD / 4
    weights["encoder_stages.0.1.weight"][0] = 1
    weights["encoder_stages.0.1.running_var"][:] = 1 - 0.001
    weights["encoder_stages.0.1.bias"][0] = float(np.dot(shares, MEAN))
    weights["bottlenecks.3.seq.0.weight"][0, 64, 1, 1] = 1
    weights["last_upsample.layer.1.weight"][0, 0, 1, 1] = 1
    weights["final.0.weight"][2, 0, 1, 1] = GAIN
    weights["final.0.bias"][:] = torch.tensor([0, -20, -GAIN * level])
    return weights


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The two weight files: a plain state dict, and a whole network as torch wrote them when these were published."""
    folder = tmp_path_factory.mktemp("weights")
    nuclei, cell = folder / "nuclei.pth", folder / "cell.pth"
    torch.save(seeing_weights([1 / 3] * 3), nuclei)
    torch.save(dpn_unet(seeing_weights([0.5, 0.5, 0.0]), "x"), cell, _use_new_zipfile_serialization=False)
    assert cell.stat().st_size < 20e6
    return nuclei, cell


def draw(shape, centres, depth=np.uint8):
    """An image (H, W, 4) RGBY of round cells, and their masks by number (H, W)."""
    image, truth = np.zeros((*shape, 4), np.uint8), np.zeros(shape, np.int32)
    for number, (x, y) in enumerate(centres, start=1):
        cv2.circle(truth, (x, y), 60, number, -1)
        nucleus = cv2.circle(np.zeros(shape, np.uint8), (x, y), 32, 1, -1) > 0
        image[nucleus, 2] = 200
    image[truth > 0, 0], image[truth > 0, 3], image[..., 1] = 180, 160, 90
    return (image if depth == np.uint8 else image.astype(np.uint16) * 257), truth


def seen(image, shares):
    """What a seeing network must answer: uint8 (h, w) interior, by numpy."""
    small = rescale(image[..., [0, 3, 2]], 0.25, channel_axis=2)
    height, width = small.shape[:2]
    even = np.pad(small, ((0, height % 2), (0, width % 2), (0, 0)), mode="symmetric")
    mean = even.reshape(even.shape[0] // 2, 2, -1, 2, 3).mean(axis=(1, 3))
    light = np.kron(mean @ shares, np.ones((2, 2)))[:height, :width]
    return 255 / (1 + np.exp(-GAIN * (light - LEVEL)))


@pytest.fixture(scope="module")
def networks(models):
    return Segmentator(*models)


def test_predictions_are_what_the_networks_must_say(networks):
    images = [draw((118, 201), [(60, 60)])[0], draw((118, 201), [(140, 60)], np.uint16)[0]]
    for image, prediction in zip(images, networks.predict(images), strict=True):
        assert prediction.nuclei.shape == prediction.cells.shape == (30, 50, 2)
        assert prediction.nuclei.dtype == np.uint8 and not prediction.nuclei[..., 0].any()
        np.testing.assert_allclose(prediction.nuclei[..., 1], seen(image, [0, 0, 1.0]), atol=1)
        np.testing.assert_allclose(prediction.cells[..., 1], seen(image, [0.5, 0.5, 0]), atol=1)


@pytest.fixture
def batches(networks, monkeypatch):
    """The sizes of the batches that reach the networks; their answer is the image's first channel or the nuclei."""
    sizes = []

    def answer(self, net, planes):
        sizes.append(len(planes))
        if len(planes) > 2:
            raise torch.cuda.OutOfMemoryError("full")
        return (255 * planes[:, 0]).round().to(torch.uint8).numpy()

    monkeypatch.setattr(Segmentator, "_probabilities", answer)
    return sizes


def test_images_of_one_size_go_together_and_keep_their_order(networks, batches):
    images = [np.full((40 + 20 * (number % 2), 60, 4), number, np.uint8) for number in range(5)]
    found = networks.predict(images)
    assert [prediction.cells.max() for prediction in found] == [prediction.nuclei.max() for prediction in found]
    assert [prediction.cells.max() for prediction in found] == list(range(5))
    assert [prediction.cells.shape for prediction in found] == [(10 + 5 * (number % 2), 15) for number in range(5)]
    assert batches == [3, 1, 1, 2, 2, 2, 2]  # three at once do not fit: halves
    assert networks.predict([]) == []


@pytest.mark.parametrize("shape", [(172, 172), (173, 90), (41, 7), (3, 200), (1, 1)])
@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_shrinking_is_scikit_images(shape, depth):
    image = np.random.default_rng(0).integers(0, np.iinfo(depth).max, (*shape, 3), endpoint=True).astype(depth)
    found = shrink(image, torch.device("cpu")).numpy().transpose(1, 2, 0)
    if min(shape) > 2:
        np.testing.assert_allclose(found, rescale(image, 0.25, channel_axis=2), atol=1e-6)
    assert found.shape[:2] == tuple(max(1, round(side / 4)) for side in shape)


@pytest.mark.parametrize("scale", [1, 0.5, 0.25])
@pytest.mark.parametrize("shape", [(300, 411), (302, 302)])
def test_labels_of_a_prediction_at_any_scale(scale, shape):
    image, truth = draw(shape, [(90, 90), (220, 150), (100, 230)])
    parts = seen(image, [0, 0, 1.0]), seen(image, [0.5, 0.5, 0])
    prediction = Prediction(*(np.dstack([np.zeros(part.shape), part]).astype(np.uint8) for part in parts))
    cells, nuclei = label_image(image, prediction, Rules(scale=scale))
    assert cells.shape == nuclei.shape == shape and cells.dtype == nuclei.dtype == np.int32
    assert sorted(np.unique(cells)) == sorted(np.unique(nuclei)) == [0, 1, 2, 3]
    for number in (1, 2, 3):
        own = cells[cells[truth == number].max() == cells]
        assert own.size
        mask, drawn = cells == own[0], truth == number
        assert (mask & drawn).sum() / (mask | drawn).sum() > (0.85 if scale > 0.25 else 0.75)  # cut by whole pixels


@pytest.fixture
def fields(tmp_path):
    """Two fields on disk, not square, one of 16 bits: the folder and the drawn cells by ImageID."""
    truths = {}
    for name, depth in (("a", np.uint8), ("b", np.uint16)):
        image, truths[name] = draw((200, 290), [(75, 90), (210, 100)], depth)
        for channel, color in enumerate(COLORS):
            cv2.imwrite(str(tmp_path / f"{name}_{color}.png"), image[..., channel])
    pd.DataFrame({"ID": list(truths), "Label": ["0|16", "4"]}).to_csv(tmp_path / "train.csv", index=False)
    return tmp_path, truths


def command(folder, models, *more):
    flags = [
        "--metadata",
        folder / "train.csv",
        "--root_dir",
        folder,
        "--nuc_model",
        models[0],
        "--cell_model",
        models[1],
    ]
    for flag in ("meta", "crop", "img", "cache"):
        flags += [f"--{flag}_dir", folder / flag]
    return [str(flag) for flag in (*flags, "--workers", 0, "--img_size", 64, "--gpu_id", "cpu", *more)]


def test_segment_with_the_published_command(fields, models, capsys, monkeypatch):
    folder, truths = fields
    assert not segment.main(command(folder, models))
    assert "device: CPU" in capsys.readouterr().out
    table = pd.read_csv(folder / "meta/train_cell.csv")
    assert table["ImageID"].tolist() == ["a", "a", "b", "b"] and table["CellID"].tolist() == [1, 2, 1, 2]
    for name, truth in truths.items():
        found = cv2.imread(str(folder / f"cache/train/{name}.cells.png"), cv2.IMREAD_UNCHANGED)
        for number in (1, 2):
            at = found[truth == number].max()
            assert ((found == at) & (truth == number)).sum() / ((found == at) | (truth == number)).sum() > 0.85
    monkeypatch.setattr(Segmentator, "predict", None)  # not called again: all is done, also by copies of the weights
    shutil.copy(models[0], folder / "copy.pth")
    assert not segment.main(command(folder, (folder / "copy.pth", models[1])))
    monkeypatch.setattr(Segmentator, "predict", lambda self, images: pytest.fail("called"))
    with pytest.raises(pytest.fail.Exception, match="called"):
        segment.main(command(folder, models, "--label_scale", "0.5"))


def test_the_labelling_step_goes_to_other_processes(models):
    args = segment.get_args_parser().parse_args(command(models[0].parent, models, "--label_scale", "0.25"))
    finder = segment.FINDERS["hpacellseg"](args)
    image, _ = draw((100, 120), [(50, 50)])
    label, prediction = pickle.loads(pickle.dumps((finder.label, finder.predict([image])[0])))  # noqa: S301
    cells, nuclei = label(image, prediction)[:2]
    assert cells.max() == 1 and 0 < nuclei.astype(bool).sum() < cells.astype(bool).sum()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--label_scale", "0"], "--label_scale 0.0 must be above 0 and at most 1"),
        (["--label_scale", "1.5"], "--label_scale 1.5 must be above 0"),
        (
            ["--cell_model", "absent.pth"],
            r"needs --cell_model, but absent\.pth is not there; download dpn_unet_cell_3ch",
        ),
        (["--finder", "watershed"], "watershed does not use --nuc_model, it belongs to hpacellseg"),
        (["--finder", "other"], "--finder other is not known; choose from: watershed, otsu, texture, hpacellseg"),
        (["--gpu_id", "x"], "--gpu_id x must be GPU numbers"),
    ],
)
def test_bad_flags(fields, models, more, message):
    with pytest.raises(UserError, match=message):
        segment.main(command(fields[0], models, *more))
    assert not (fields[0] / "meta").exists()


def test_weights_left_out_or_of_something_else(fields, models):
    folder = fields[0]
    flags = command(folder, models)
    at = flags.index("--nuc_model")
    with pytest.raises(
        UserError, match=r"needs --nuc_model, but it is not given; download dpn_unet_nuclei_v1\.pth from"
    ):
        segment.main(flags[:at] + flags[at + 2 :])
    torch.save({"fc.weight": torch.ones(2)}, folder / "other.pth")
    with pytest.raises(UserError, match=r"--nuc_model .*other\.pth does not hold the weights of the HPA Cell Segm"):
        segment.main(command(folder, (folder / "other.pth", models[1])))
