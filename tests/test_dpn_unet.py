"""The segmentator's network: its weights' names, its encoder against timm's, its decoder against plain functions."""

from functools import partial

import pytest
import timm
import torch
from torch.nn import functional

from common.errors import UserError
from models.dpn_unet import FILTERS, DpnUnet, dpn_unet, encoder_stages, pad_to_stride, reflect


def random_weights(shapes, seed=0):
    """Weights of some spread for a state dict's shapes; variances above 0."""
    random = torch.Generator().manual_seed(seed)
    weights = {}
    for name, value in shapes.items():
        if name.endswith("num_batches_tracked"):
            continue
        fan = max(value[0].numel(), 1) if value.ndim > 1 else 100
        weights[name] = torch.empty(value.shape).uniform_(-1, 1, generator=random) * (3 / fan) ** 0.5
        if name.endswith(("running_var", "bn.weight")):
            weights[name] = 1 + weights[name]
    return weights


@pytest.fixture(scope="module")
def shapes():
    with torch.device("meta"):
        return DpnUnet().state_dict()


def test_published_names_and_shapes(shapes):
    assert len(shapes) == 595
    sizes = {name: tuple(value.shape) for name, value in shapes.items()}
    expected = {
        "encoder_stages.0.0.weight": (64, 3, 7, 7),
        "encoder_stages.0.1.running_mean": (64,),
        "encoder_stages.1.1.c1x1_w_s1.bn.weight": (64,),
        "encoder_stages.1.1.c1x1_w_s1.conv.weight": (288, 64, 1, 1),
        "encoder_stages.1.1.c3x3_b.conv.weight": (96, 3, 3, 3),
        "encoder_stages.1.3.c1x1_c.conv.weight": (272, 96, 1, 1),
        "encoder_stages.2.0.c1x1_w_s2.conv.weight": (576, 336, 1, 1),
        "encoder_stages.3.19.c1x1_a.conv.weight": (384, 1528, 1, 1),
        "encoder_stages.4.2.c1x1_c.conv.weight": (2176, 768, 1, 1),
        "encoder_stages.4.3.bn.running_var": (2688,),
        "bottlenecks.0.seq.0.weight": (1552, 3104, 3, 3),
        "bottlenecks.3.seq.0.bias": (64,),
        "decoder_stages.0.layer.1.weight": (64, 336, 3, 3),
        "decoder_stages.3.layer.1.weight": (1552, 2688, 3, 3),
        "last_upsample.layer.1.weight": (64, 64, 3, 3),
        "final.0.weight": (3, 64, 3, 3),
        "final.0.bias": (3,),
    }
    assert {name: sizes[name] for name in expected} == expected


def remember(seen, name, module, inputs, output):
    seen[name] = torch.cat(output, dim=1) if isinstance(output, tuple) else output  # older timm gives two


@pytest.mark.slow
def test_encoder_is_timms_dpn92():
    """timm's network with the same weights; its last activation is another, but equal where it is positive."""
    stages = encoder_stages(3).eval()
    stages.load_state_dict(random_weights(stages.state_dict()), strict=False)
    places = {"0.0": "conv1_1.conv", "0.1": "conv1_1.bn", "4.3": "conv5_bn_ac"}
    for stage, blocks in enumerate((3, 4, 20, 3), start=1):
        for block in range(blocks):
            places[f"{stage}.{block + (stage == 1)}"] = f"conv{stage + 1}_{block + 1}"
    theirs = timm.create_model("dpn92", num_classes=0).eval()
    renamed = {}
    for name, value in stages.state_dict().items():
        place = ".".join(name.split(".")[:2])
        renamed[f"features.{places[place]}.{name.removeprefix(place + '.')}"] = value
    theirs.load_state_dict(renamed)
    seen = {}
    for name in ("conv2_3", "conv3_4", "conv4_20"):
        getattr(theirs.features, name).register_forward_hook(partial(remember, seen, name))
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        last = theirs.forward_features(x)
        for stage, filters in zip(stages, FILTERS, strict=True):
            x = stage(x)
            assert x.shape[1] == filters
            if stage is not stages[0] and stage is not stages[-1]:
                torch.testing.assert_close(x, seen.pop(next(iter(seen))), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(x, last.relu(), rtol=1e-4, atol=1e-4)
    assert x.std() > 0.01


def plain_forward(net, weights, x):
    """The published U-Net written out over the state's names."""

    def conv(name, x):
        return functional.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1)

    maps = []
    for stage in net.encoder_stages:
        x = stage(x)
        maps.append(x)
    for index in range(4):
        x = conv(f"decoder_stages.{3 - index}.layer.1", functional.interpolate(x, scale_factor=2)).relu()
        x = conv(f"bottlenecks.{index}.seq.0", torch.cat([x, maps[3 - index]], dim=1)).relu()
    x = conv("last_upsample.layer.1", functional.interpolate(x, scale_factor=2)).relu()
    return conv("final.0", x)


@pytest.mark.slow
def test_network_of_a_state_dict(shapes):
    weights = random_weights(shapes)
    net = dpn_unet(weights, "x.pth")
    assert not net.training and not any(value.requires_grad for value in net.parameters())
    x = torch.rand(1, 3, 64, 32, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        found = net(x)
        torch.testing.assert_close(found, plain_forward(net, weights, x))
        assert found.shape == (1, 3, 64, 32) and found.std() > 1e-4
        odd = x[:, :, :41, :19]
        torch.testing.assert_close(net(odd), plain_forward(net, weights, pad_to_stride(odd))[:, :, :41, :19])


@pytest.mark.parametrize(("size", "padded"), [(1, 32), (5, 32), (31, 32), (32, 32), (33, 64), (432, 448)])
def test_padding(size, padded):
    x = torch.arange(size)[None, None, None]
    found = pad_to_stride(x)
    assert found.shape == (1, 1, 32, padded)
    expected = [min(at % (2 * size), 2 * size - 1 - at % (2 * size)) for at in range(padded)]
    assert found[0, 0, 0].tolist() == expected


def test_reflection_includes_the_edge():
    assert reflect(torch.arange(3), 0, 4, 2).tolist() == [2, 2, 1, 0, 0, 1, 2, 2, 1]


def change(weights, name, value):
    return {**weights, name: value} if value is not None else {key: weights[key] for key in weights if key != name}


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("final.0.bias", None, r"x\.pth .*it lacks final\.0\.bias; dpn_unet_nuclei_v1\.pth or"),
        ("fc.weight", torch.ones(1), r"it also has fc\.weight; dpn_unet_nuclei_v1\.pth or"),
        ("bottlenecks.3.seq.0.bias", torch.ones(3), r"bottlenecks\.3\.seq\.0\.bias has the shape \(3,\), not \(64,\)"),
        ("final.0.weight", torch.ones(3), r"final\.0\.weight has the shape"),
        ("encoder_stages.0.0.weight", torch.ones(64), r"encoder_stages\.0\.0\.weight has the shape"),
        ("final.0.weight", torch.tensor(1.0), r"final\.0\.weight has the shape"),
    ],
)
def test_weights_of_another_network(shapes, name, value, message):
    weights = {key: torch.zeros(()).expand(own.shape) for key, own in shapes.items()}
    with pytest.raises(UserError, match=message):
        dpn_unet(change(weights, name, value), "--nuc_model x.pth")
