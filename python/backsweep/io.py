"""Weights in files: the safetensors format, written whole or not at all, read with suspicion.

The reader checks everything before it allocates: sizes, offsets without gaps or overlaps, known types, unique plain names.
Nothing in a file is ever executed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from . import _core, errors
from ._core import Tensor

_NAMES = {
    "bool": "BOOL", "uint8": "U8", "int32": "I32", "int64": "I64",
    "float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64",
}  # fmt: skip
_DTYPES = {code: name for name, code in _NAMES.items()}
MOST_HEADER_BYTES = 16 * 2**20
MOST_TENSORS = 100_000
MOST_RANK = 32
MOST_NAME_BYTES = 1024


def save(tensors: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a safetensors file: the old file or the new one, never half of either.

    Raises: ValueError for names the format cannot hold; OSError as the system gives it.
    """
    if metadata and not all(isinstance(text, str) for pair in metadata.items() for text in pair):
        raise errors.DTypeError("save: metadata with something else than texts; texts under texts are needed")
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    for name, tensor in tensors.items():
        _check_name("save", name)
        if not isinstance(tensor, Tensor):
            raise errors.DTypeError(f"save: '{name}' is a {type(tensor).__name__}; tensors are saved")
        header[name] = {"dtype": _NAMES[tensor.dtype.name], "shape": list(tensor.shape)}
    parts: list[bytes] = []
    offset = 0
    # The widest elements first, so that all lie at multiples of their size.
    for name in sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize):
        data = _core.to_bytes(tensors[name].detach())
        header[name]["data_offsets"] = [offset, offset + len(data)]
        parts.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    _write_whole(Path(path), [len(text).to_bytes(8, "little"), text, *parts])


def _write_whole(path: Path, parts: list[bytes]) -> None:
    """Write beside the target, flush to the disk, then take the target's place."""
    target = Path(os.path.realpath(path))
    handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        if os.path.exists(name):
            os.unlink(name)
        raise
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises: ValueError when the file is not whole or breaks a rule of the format.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        header, start = _read_header(file, size, os.fspath(path))
        tensors = {}
        for name, (dtype, shape, begin, end) in header.items():
            file.seek(start + begin)
            data = file.read(end - begin)
            if dtype == "bool" and data.translate(None, b"\0\1"):
                raise _wrong(os.fspath(path), f"has bools in '{name}' that are neither 0 nor 1")
            tensors[name] = _core.from_bytes(data, shape, getattr(_core, dtype))
        return tensors


def load_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read the texts that were saved beside the tensors."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        raw = _read_json(file, size, os.fspath(path))[0]
    return dict(raw.get("__metadata__", {}))


def _wrong(path: str, what: str) -> errors.ValueError:
    return errors.ValueError(f"load: '{path}' {what}; a whole safetensors file is needed")


def _check_name(op: str, name: str) -> None:
    # A lone surrogate has no bytes in UTF-8.
    size = len(name.encode(errors="ignore")) if isinstance(name, str) else 0
    plain = 0 < size <= MOST_NAME_BYTES and "\0" not in name and name.encode(errors="ignore").decode() == name
    if not plain or name == "__metadata__":
        raise errors.ValueError(f"{op}: the name {name!r} of a tensor; a text of 1 to {MOST_NAME_BYTES} bytes is needed")


def _read_json(file: Any, size: int, path: str) -> tuple[dict[str, Any], int]:
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > MOST_HEADER_BYTES or 8 + length > size:
        raise _wrong(path, f"has {size} bytes and a header said to have {length}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) != len(pairs):
            raise _wrong(path, "uses a name twice")
        return dict(pairs)

    text = file.read(length)
    try:
        raw = json.loads(text.decode(), object_pairs_hook=unique)
    except errors.ValueError:
        raise
    except (ValueError, RecursionError) as error:  # no UTF-8, no JSON, too deep, or a number of too many digits
        raise _wrong(path, f"has a header that is no JSON ({error})") from None
    if not isinstance(raw, dict) or len(raw) > MOST_TENSORS:
        raise _wrong(path, "has a header that is no table of tensors")
    return raw, 8 + length


def _read_header(file: Any, size: int, path: str) -> tuple[dict[str, tuple[str, list[int], int, int]], int]:
    raw, start = _read_json(file, size, path)
    metadata = raw.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _wrong(path, "has metadata that is no table of texts")
    entries = {}
    for name, entry in raw.items():
        _check_name("load", name)
        if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
            raise _wrong(path, f"describes '{name}' by something else than dtype, shape and data_offsets")
        dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
        if not isinstance(dtype, str) or dtype not in _DTYPES:
            raise _wrong(path, f"has '{name}' of type {dtype!r}; known are {' '.join(_DTYPES)}")
        if not _whole(shape) or len(shape) > MOST_RANK or not _whole(offsets) or len(offsets) != 2:
            raise _wrong(path, f"gives '{name}' the shape {str(shape)[:80]} and the offsets {str(offsets)[:80]}")
        width = getattr(_core, _DTYPES[dtype]).itemsize
        elements, reach = 1, width
        for extent in shape:
            elements *= extent
            reach *= max(extent, 1)
        if reach >= 2**63 or offsets[0] % width:
            raise _wrong(path, f"gives '{name}' the shape {shape} at byte {offsets[0]}, which no memory or {dtype} allows")
        if offsets[1] - offsets[0] != elements * width:
            raise _wrong(path, f"gives '{name}' {offsets[1] - offsets[0]} bytes for {elements} elements of {width}")
        entries[name] = (_DTYPES[dtype], shape, offsets[0], offsets[1])
    position = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != position:
            raise _wrong(path, f"leaves a gap or an overlap of bytes before '{name}'")
        position = end
    if start + position != size:
        raise _wrong(path, f"has {size - start} bytes of data and describes {position}")
    return entries, start


def _whole(values: Any) -> bool:
    return isinstance(values, list) and all(type(v) is int and 0 <= v < 2**62 for v in values)
