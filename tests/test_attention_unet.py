"""Attention U-Net: the contract on every kind of encoder and image, the gate by hand, checkpointing, training."""

import pytest
import torch

from common.errors import UserError
from engine.optimizers import batch_norms
from losses.segmentation import MapLoss
from models import build_detector, task_of
from models.attention_unet import AttentionGate, attention_unet
from models.pyramid import feature_maps
from models.weights import PACKAGED, load_pretrained

MEAN, STD = (0.5, 0.4, 0.3, 0.5), (0.2, 0.2, 0.2, 0.2)


def small(num_classes=2, channels=3, name="resnet18", **options):
    torch.manual_seed(0)
    return attention_unet(name, num_classes, channels, MEAN[:channels], STD[:channels], **options)


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0", "convnext_atto"])
def test_contract_on_encoders(name):
    model = small(name=name)
    images = torch.randint(256, (2, 3, 50, 70), dtype=torch.uint8)
    losses = model(images, torch.randint(3, (2, 50, 70)))
    assert set(losses) == {"dice", "focal", "boundary"}
    sum(losses.values()).backward()
    assert not [key for key, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    with torch.inference_mode():
        maps = model.eval()(images)["map"]
    assert maps.shape == (2, 3, 50, 70) and maps.dtype == torch.float32
    torch.testing.assert_close(maps.sum(1), torch.ones(2, 50, 70))


def test_published_widths():
    model = build_detector("unet_resnet34", 5, 4, MEAN, STD)
    maps = feature_maps(model.backbone.eval(), torch.zeros(1, 4, 64, 64))
    assert {stride: one.shape[1] for stride, one in maps.items()} == {2: 64, 4: 64, 8: 128, 16: 256, 32: 512}
    assert [block.up.out_channels for block in model.decoder] == [256, 128, 64, 64]
    assert [block.gate.of_gate[0].out_channels for block in model.decoder] == [128, 64, 32, 32]
    assert model.head[-1].out_channels == 6 and task_of("unet_resnet34") == "segment"


def test_light_decoder():
    model = build_detector("unet_light_resnet18", 1, 3, MEAN[:3], STD[:3])
    assert [block.up.out_channels for block in model.decoder] == [128, 64, 32, 16]
    assert task_of("unet_light_resnet18") == "segment" and model.head[-1].in_channels == 16


def test_light_decoder_sees_each_image_alone():
    """With the backbone's norms held, an image's logits do not depend on its batch, nor on training or evaluation."""
    torch.manual_seed(1)
    model = build_detector("unet_light_resnet18", 1, 3, MEAN[:3], STD[:3], dropout=0.0).train()
    held = batch_norms(model)
    assert {id(layer) for layer in held} == {id(m) for m in model.modules() if isinstance(m, torch.nn.BatchNorm2d)}
    images = torch.randn(2, 3, 64, 64)
    mixed = model.logits(images)[:1]
    assert not torch.allclose(mixed, model.logits(images[:1]), atol=1e-3)
    for layer in held:
        layer.eval()
    alone = model.logits(images[:1])
    torch.testing.assert_close(model.logits(images)[:1], alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.eval().logits(images[:1]), alone, atol=1e-4, rtol=1e-4)


def test_gate_by_hand():
    gate = AttentionGate(1, 2, 1, torch.nn.BatchNorm2d).eval()
    for part, value in ((gate.of_gate[0], 2.0), (gate.of_skip[0], 1.0), (gate.weight[1], 3.0)):
        torch.nn.init.constant_(part.weight, value)
        torch.nn.init.zeros_(part.bias)
    for norm in (gate.of_gate[1], gate.of_skip[1], gate.weight[2]):
        norm.eps = 0.0
    x, skip = torch.tensor([1.0]).view(1, 1, 1, 1), torch.tensor([-1.0, -0.5]).view(1, 2, 1, 1)
    # 2 * 1 + (-1 - .5) = .5, ReLU, times 3 = 1.5
    torch.testing.assert_close(gate(x, skip), skip * torch.sigmoid(torch.tensor(1.5)))


def test_checkpointing_changes_no_gradient_and_no_running_mean():
    images, targets = torch.randint(256, (2, 3, 64, 64)), torch.randint(3, (2, 64, 64))
    grads, buffers = [], []
    for again in (False, True):
        model = small(checkpointing=again, dropout=0.0)
        sum(model(images, targets).values()).backward()
        grads.append([weight.grad for weight in model.parameters() if weight.grad is not None])
        buffers.append(dict(model.named_buffers()))
    for first, second in zip(*grads, strict=True):
        torch.testing.assert_close(first, second)
    assert buffers[1]["backbone.bn1.num_batches_tracked"] == 1
    for name, value in buffers[0].items():
        torch.testing.assert_close(value, buffers[1][name], msg=name)
    assert model.backbone.bn1.momentum == 0.1


def test_packaged_weights_fit_the_encoder():
    model = small(name="tf_efficientnet_lite0")
    before = model.backbone.conv_stem.weight.clone()
    fresh = load_pretrained(model, PACKAGED)
    assert not any(name.startswith("backbone.") for name in fresh)
    assert not torch.equal(before, model.backbone.conv_stem.weight)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "legacy_xception"])  # one stride; maps of odd sizes
def test_no_encoder(name):
    with pytest.raises(UserError, match=f"{name} cannot be a backbone"):
        small(name=name)


def test_class_weights_are_no_weights_of_the_network():
    first, second = small(), small(criterion=MapLoss([1.0, 2.0, 3.0]))
    assert first.state_dict().keys() == second.state_dict().keys()


@pytest.mark.slow
def test_learns_squares():
    torch.manual_seed(1)
    targets = torch.full((2, 64, 64), 2)
    targets[0, 10:30, 12:40], targets[1, 30:60, 5:25], targets[0, 40:60, 30:60] = 0, 1, 1
    images = torch.stack([30 + 60 * targets, 200 - 50 * targets, 30 * targets], 1)
    model = small()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        sum(model(images, targets).values()).backward()
        optimizer.step()
    for part in model.eval().modules():  # two images are too few for running means
        if isinstance(part, torch.nn.BatchNorm2d):
            part.train()
    with torch.inference_mode():
        found = model(images)["map"].argmax(1)
    assert (found == targets).float().mean() > 0.97
