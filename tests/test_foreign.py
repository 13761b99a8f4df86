"""Foreign weight files: every form that torch.save wrote gives its tensors, and none gets to run its code."""

import contextlib
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.foreign import read_state


class Block(nn.Module):
    """Part of a network of a package that the reader does not have (see `foreign_package`)."""

    def __init__(self):
        super().__init__()
        self.seq = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Upsample(size=2))
        self.register_buffer("mean", torch.arange(3.0))
        self.register_parameter("absent", None)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.filters, self.kind, self.extra = [64, 336], Block, {"a": {1, 2}, "size": torch.Size([2]), "of": torch.half}
        self.scalar = np.float64(0.5)
        self.stages = nn.ModuleList([Block(), Block()])
        self.tied = self.stages[0].seq[0]
        self.weight = nn.Parameter(torch.arange(24.0).reshape(4, 6).T[1:, ::2])  # a view with strides
        self.exact = nn.Parameter(torch.rand(2, dtype=torch.float64), requires_grad=False)


@contextlib.contextmanager
def foreign_package():
    """The classes live in a package that is there when they are saved, and gone when they are read."""
    package = types.ModuleType("pytorch_zoo")
    for kind in (Block, Net):
        kind.__module__ = "pytorch_zoo"
        setattr(package, kind.__name__, kind)
    sys.modules["pytorch_zoo"] = package
    try:
        yield
    finally:
        del sys.modules["pytorch_zoo"]
        Block.__module__ = Net.__module__ = __name__


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net()


def same(state, net):
    truth = net.state_dict()
    assert sorted(state) == sorted(truth)
    for name, value in truth.items():
        assert state[name].dtype == value.dtype and torch.equal(state[name], value), name


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("wrap", [lambda net: net, nn.DataParallel, lambda net: {"epoch": 3, "state_dict": net}])
def test_whole_network_of_a_missing_package(tmp_path, net, zipped, wrap):
    path = tmp_path / "net.pth"
    with foreign_package():
        torch.save(wrap(net), path, _use_new_zipfile_serialization=zipped)
    same(read_state(path, "--nuc_model"), net)
    assert "pytorch_zoo" not in sys.modules


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("key", [None, "state_dict", "model"])
def test_state_dicts(tmp_path, net, zipped, key):
    path = tmp_path / "state.pth"
    state = {f"module.{name}": value for name, value in net.state_dict().items()}
    torch.save({"epoch": 1, key: state} if key else state, path, _use_new_zipfile_serialization=zipped)
    same(read_state(path, "--nuc_model"), net)


def test_checkpoint_with_numbers_of_numpy(tmp_path, net):
    path = tmp_path / "old.pth"
    torch.save({"loss": np.float64(0.3), "state_dict": net.state_dict()}, path, _use_new_zipfile_serialization=False)
    same(read_state(path, "--resume"), net)


class Evil:
    """An object whose pickle calls a function."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def attacks(marker):
    command = f"touch {marker}"
    return {
        "system": Evil(os.system, command),
        "eval": Evil(eval, f"__import__('os').system('{command}')"),
        "open": Evil(open, str(marker), "w"),
        "getattr": Evil(getattr, "text", "upper"),
        "load": Evil(torch.load, str(marker)),
        "class": Evil(nn.Linear, 2, 2),
        "nested": [{"weights": torch.ones(2), "hook": Evil(os.system, command)}],
        "checkpoint": {"state_dict": {"weight": torch.ones(2)}, "opt": Evil(os.system, command)},
    }


@pytest.mark.parametrize("name", list(attacks("x")))
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "inside a network"])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_foreign_code_is_refused(tmp_path, net, name, form):
    marker, path = tmp_path / "ran", tmp_path / "evil.pth"
    content = attacks(marker)[name]
    if form == "inside a network":
        net.stages[0].secret = content
        content = net
    with foreign_package():
        if form == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    with pytest.raises(UserError, match=r"--nuc_model .*evil\.pth is not a file of weights that can be read safely"):
        read_state(path, "--nuc_model")
    assert not marker.exists()


def test_a_call_by_hand_written_opcodes_is_refused(tmp_path):
    path, marker = tmp_path / "evil.pth", tmp_path / "ran"
    text = f"S'touch {marker}'\n"
    for code in (f"cos\nsystem\n({text}tR.", f"({text}ios\nsystem\n.", f"(cos\nsystem\n{text}o."):
        path.write_bytes(code.encode())
        with pytest.raises(UserError, match="safely"):
            read_state(path, "--x")
        assert not marker.exists()


@pytest.mark.parametrize("zipped", [True, False])
def test_damaged_files(tmp_path, net, zipped):
    path = tmp_path / "state.pth"
    torch.save(net.state_dict(), path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    for damaged in (b"", b"not weights", whole[:100], whole[: len(whole) - 300], whole[:-1000] + b"\0" * 5):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match=r"--cell_model .*state\.pth"):
            read_state(path, "--cell_model")


def test_what_is_not_a_weight_file(tmp_path):
    with pytest.raises(UserError, match="--nuc_model does not exist"):
        read_state(tmp_path / "absent.pth", "--nuc_model")
    path = tmp_path / "x.pth"
    torch.save({"epoch": 3}, path)
    with pytest.raises(UserError, match="holds no weights"):
        read_state(path, "--nuc_model")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(UserError, match="zip file, but not one of torch"):
        read_state(path, "--nuc_model")


def test_a_storage_larger_than_the_file_is_refused(tmp_path):
    """The older form names a storage's length before its numbers: it must not make us take the memory."""
    path = tmp_path / "x.pth"
    torch.save([nn.Linear(2, 2)], path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    four = pickle.dumps(4, protocol=2)[2:-1]
    assert four in data
    huge = data.replace(b"cpuq", b"cpuq", 1)
    start = huge.index(b"X\x03\x00\x00\x00cpu")
    spot = huge.index(four, start)
    path.write_bytes(huge[:spot] + pickle.dumps(2**50, protocol=2)[2:-1] + huge[spot + len(four) :])
    with pytest.raises(UserError, match="larger than the file"):
        read_state(path, "--x")
