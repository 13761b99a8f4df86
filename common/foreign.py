"""The one guarded door for weight files that other programs pickled: their tensors come in, their code does not.

`torch.load` on a whole pickled network imports and runs what the file names. Here a pickle can build containers and
tensors and nothing else: every class that it names becomes an inert stand-in that only keeps the state it is given, and
whatever it wants to call beyond the short list below is refused. Reads torch's zip files and the older form of one
pickle after another; plain state dicts go through torch's own `weights_only` reader first.
"""

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

import torch

from common.errors import UserError, first_line, some
from common.files import check_archive, existing

STORAGES = {
    "DoubleStorage": torch.float64, "FloatStorage": torch.float32, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
DEEPEST = 100  # modules within modules


class Refused(pickle.UnpicklingError):
    """A pickle asks for something that a file of weights does not need."""


def read_state(path: str | Path, what: str) -> dict[str, torch.Tensor]:
    """The tensors of a weight file by their state-dict names, on the CPU, without running any code from the file.

    The file: a state dict; a checkpoint with one under "state_dict", "model" or "net"; or a whole pickled network.
    A leading "module." of every name (DataParallel) is removed. what: the flag that named the file. UserError when the
    file is missing, damaged, holds no tensors, or holds anything beyond data.
    """
    path = existing(path, what)
    try:
        check_archive(path)
        tensors = dict(_tensors(_read(path)))
    except Exception as error:  # a damaged or hostile pickle can fail in any way
        reason = first_line(error)
        raise UserError(f"{what} {path} is not a file of weights that can be read safely: {reason}") from error
    if not tensors:
        raise UserError(f"{what} {path} holds no weights; a state dict or a whole network saved by torch.save is right")
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): value for name, value in tensors.items()}
    return tensors


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError):
        with path.open("rb") as file:
            return _read_zip(file) if zipfile.is_zipfile(file) else _read_legacy(file)


class StandInType(type):
    """Makes stand-ins refuse to be called: pickles make plain objects without a call, so calls are foreign code."""

    def __call__(cls, *args, **kwargs) -> NoReturn:
        raise Refused(f"it wants to call {cls.__qualname__}, which is not needed to hold weights")


class StandIn(metaclass=StandInType):
    """An object of a class that is not loaded; `state` is what the pickle says it holds."""

    state: Any = None

    def __new__(cls, *args, **kwargs) -> "StandIn":
        return object.__new__(cls)

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _stand_in(name: str) -> type:
    return StandInType(name, (StandIn,), {})


def _nothing(*args) -> StandIn:
    """In place of a harmless value of no interest here (bytes, a numpy scalar, the backend of torch before 1.4)."""
    return object.__new__(StandIn)


def _rebuild_tensor(storage: torch.Tensor, offset: int, size: tuple, stride: tuple, *rest) -> torch.Tensor:
    return storage.as_strided(size, stride, offset)


def _rebuild_parameter(data: torch.Tensor, *rest) -> torch.Tensor:
    return data


# What a pickle may call, and what is called instead.
CALLS: dict[str, Callable] = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set, "builtins.frozenset": frozenset,
    "__builtin__.set": set, "__builtin__.frozenset": frozenset,
    "torch._utils._rebuild_tensor": _rebuild_tensor, "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_parameter": _rebuild_parameter, "torch.Size": tuple,
    "torch.device": _nothing, "torch.nn.backends.thnn._get_thnn_function_backend": _nothing,
    "_codecs.encode": _nothing, "numpy.dtype": _nothing,
    "numpy.core.multiarray.scalar": _nothing, "numpy._core.multiarray.scalar": _nothing,
}  # fmt: skip


class GuardedUnpickler(pickle.Unpickler):
    """Builds containers, numbers, texts, tensors and stand-ins; `storage` gives the tensor behind a storage's key."""

    def __init__(self, file: BinaryIO, storage: Callable[[str, torch.dtype, int], torch.Tensor] | None = None):
        super().__init__(file, encoding="utf-8")
        self.storage = storage

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in CALLS:
            return CALLS[full]
        if module == "torch" and name in STORAGES:
            return STORAGES[name]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        return _stand_in(full)

    def persistent_load(self, saved: Any) -> Any:
        kind = saved[0]
        if kind == "module":  # a class, with its source text, in the older form
            return saved[1]
        if kind != "storage" or self.storage is None or not isinstance(saved[1], torch.dtype):
            raise Refused(f"it holds a {some(saved[:2])}, which is not known")
        _, dtype, key, _, count, *view = saved
        storage = self.storage(str(key), dtype, int(count))
        if view and view[0] is not None:
            _, offset, size = view[0]
            return storage[offset : offset + size]
        return storage


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        main = [name for name in archive.namelist() if name == "data.pkl" or name.endswith("/data.pkl")]
        if len(main) != 1:
            raise Refused("it is a zip file, but not one of torch.save")
        folder = main[0].removesuffix("data.pkl")
        storages: dict[str, torch.Tensor] = {}

        def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
            if key not in storages:
                storages[key] = _values(archive.read(f"{folder}data/{key}"), dtype)
            return storages[key]

        return GuardedUnpickler(io.BytesIO(archive.read(main[0])), storage).load()


def _values(data: bytes, dtype: torch.dtype) -> torch.Tensor:
    """Little-endian numbers as a tensor of one axis that owns its memory."""
    if not data:
        return torch.empty(0, dtype=dtype)
    return torch.frombuffer(bytearray(data), dtype=dtype)


def _read_legacy(file: BinaryIO) -> Any:
    """torch.save before 1.6: magic number, version, system, the object, the storages' keys, then their numbers."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if GuardedUnpickler(file).load() != LEGACY_MAGIC or GuardedUnpickler(file).load() != LEGACY_PROTOCOL:
        raise Refused("it is not a file of torch.save")
    GuardedUnpickler(file).load()
    storages: dict[str, torch.Tensor] = {}

    def storage(key: str, dtype: torch.dtype, count: int) -> torch.Tensor:
        if not 0 <= count * dtype.itemsize <= size:
            raise Refused(f"its storage {key} is said to be larger than the file")
        return storages.setdefault(key, torch.zeros(count, dtype=dtype))

    content = GuardedUnpickler(file, storage).load()
    for key in GuardedUnpickler(file).load():
        values = storages[str(key)]
        count = int.from_bytes(file.read(8), "little")
        if count != len(values):
            raise Refused(f"its storage {key} has {count} numbers, not {len(values)}")
        values.copy_(_values(file.read(count * values.itemsize), values.dtype))
    return content


def _tensors(content: Any, name: str = "", depth: int = 0) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a state dict, a checkpoint or a network (stand-ins), with their state-dict names."""
    if depth > DEEPEST:
        raise Refused(f"its modules are nested more than {DEEPEST} deep")
    if isinstance(content, StandIn):
        yield from _module_tensors(content, name, depth)
    elif isinstance(content, dict):
        for key in ("state_dict", "model", "net"):
            if isinstance(content.get(key), (dict, StandIn)):
                yield from _tensors(content[key], name, depth + 1)
                return
        yield from ((str(key), value) for key, value in content.items() if isinstance(value, torch.Tensor))


def _module_tensors(module: StandIn, name: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    state = module.state if isinstance(module.state, dict) else {}
    for kind in ("_parameters", "_buffers"):
        for key, value in (state.get(kind) or {}).items():
            if isinstance(value, torch.Tensor):
                yield f"{name}{key}", value
    for key, child in (state.get("_modules") or {}).items():
        if isinstance(child, StandIn):
            yield from _tensors(child, f"{name}{key}.", depth + 1)
