"""Files of nested plain data and tensors, one file each, complete or refused.

A file is an ordinary safetensors file, so any safetensors reader opens it by hand::

    with safetensors.safe_open(path, framework="pt") as file:
        json.loads(file.metadata()["tree"])     # the plain data; {"__tensor__": name} is a tensor
        file.get_tensor("/model/encoder/0/weight")

Its header begins with ``sha256``, the digest of the whole file with the digest's own 64 characters
read as ``0``; it is verified before anything else is looked at. The header is written here and
not by the safetensors library: equal content gives equal bytes (the library's order of metadata
keys is undefined), and the digest is made while the bytes pass by, with no second copy of them.
"""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

_TENSOR = "__tensor__"
_FORMAT = "difftori-checkpoint-1"
_PREFIX = f'{{"__metadata__":{{"format":"{_FORMAT}","sha256":"'.encode()
_DIGEST = slice(8 + len(_PREFIX), 8 + len(_PREFIX) + 64)
_PIECE = 4 << 20  # bytes hashed and written at a time, so that they are still in the cache
_HEADER_LIMIT = 100_000_000  # bytes; safetensors readers refuse more
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_MALFORMED: tuple[type[Exception], ...] = (
    *(ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError),
    safetensors.SafetensorError,
)
_LEFTOVER = re.compile(r"\..+\.safetensors\.tmp")
_DTYPES = {
    **{torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"},
    **{torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8"},
    **{torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.uint8: "U8"},
    torch.bool: "BOOL",
}


class CheckpointError(Exception):
    """A checkpoint, or the data it refers to, cannot be written or cannot be used."""


class CheckpointWriteError(CheckpointError):
    """The disk did not take the bytes; what was there before is intact, and retrying is safe."""

    def __init__(self, path: Path, bytes_needed: int, reason: str) -> None:
        super().__init__(f"cannot write {path}: {reason} (needs {bytes_needed:,} bytes)")
        self.path = path
        self.bytes_needed = bytes_needed
        self.reason = reason


@dataclass(frozen=True)
class Image:
    """A tree on its way to the disk."""

    header: bytes
    """length, JSON and padding, with zeros for the digest"""
    tensors: list[Tensor]
    """in the order of the file"""

    @property
    def bytes_needed(self) -> int:
        return len(self.header) + sum(_nbytes(tensor) for tensor in self.tensors)

    def pieces(self) -> Iterator[memoryview]:
        for part in (memoryview(self.header), *map(_raw, self.tensors)):
            for start in range(0, len(part), _PIECE):
                yield part[start : start + _PIECE]


def save_tree(path: Path, tree: Any) -> None:
    """Write ``tree`` to ``path``, durably and all or nothing.

    ``tree``: nested dicts with string keys and lists, of tensors (any device, any strides), int,
    float, str, bool and None. What shares storage is written twice and loads apart. One writer per
    folder at a time: leftovers of writers that were killed are removed after a success.

    Raises CheckpointError, naming the place, for content that cannot be stored, and
    CheckpointWriteError when the disk does not take it.
    """
    write_image(path, image_of(tree, copy=False))


def load_tree(path: Path) -> Any:
    """Read a tree back, tensors on the CPU and each with its own memory.

    Raises CheckpointError, naming the file and what is wrong, unless every byte is as written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if data[8 : _DIGEST.start] != _PREFIX:
        reason = "empty" if not data else f"damaged at its beginning, or not a {_FORMAT} file"
        raise CheckpointError(f"{path}: {reason} ({len(data):,} bytes)")
    view = memoryview(data)
    digest = hashlib.sha256(view[: _DIGEST.start])
    digest.update(b"0" * 64)
    digest.update(view[_DIGEST.stop :])
    if digest.hexdigest().encode() != data[_DIGEST]:
        raise CheckpointError(f"{path}: {_damage(data)}")
    try:
        tensors = safetensors.torch.load(data)
        text = _header(data)["__metadata__"]["tree"]
        return _join(json.loads(text, parse_constant=_refuse_constant), tensors)
    except _MALFORMED as error:
        raise CheckpointError(f"{path}: checksum good, content malformed: {error!r}") from error


def tree_bytes(tree: Any) -> int:
    """Size in bytes of the file that ``save_tree`` would write."""
    return image_of(tree, copy=False).bytes_needed


def write_at(descriptor: int, data: memoryview, offset: int) -> int:
    """Write all of ``data`` at ``offset``; gives the offset behind it. Raises OSError."""
    while len(data):
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written
    return offset


def fsync_folder(folder: Path) -> None:
    """Make the names in ``folder`` durable. Raises OSError."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def image_of(tree: Any, *, copy: bool) -> Image:
    """Lay out ``tree`` for the disk; ``copy`` makes it independent of later changes."""
    found: dict[str, Tensor] = {}
    try:
        plain = _split(tree, "", found)
        text = json.dumps(plain, sort_keys=True, separators=(",", ":"), allow_nan=False)
        # Wide elements first keeps every tensor aligned in the file.
        names = sorted(found, key=lambda name: (-found[name].element_size(), name.encode()))
    except (ValueError, RecursionError) as error:  # lone surrogates, huge integers, cycles
        raise CheckpointError(f"the tree cannot be stored: {error}") from error
    metadata = {"format": _FORMAT, "sha256": "0" * 64, "tree": text}
    entries: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in names:
        begin, end = end, end + _nbytes(found[name])
        dtype, shape = _DTYPES[found[name].dtype], list(found[name].shape)
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > _HEADER_LIMIT:
        raise CheckpointError(
            f"{len(header):,} bytes of plain data and names, at most {_HEADER_LIMIT:,} fit: "
            "store long lists of numbers as tensors"
        )
    tensors = [_copy(found[name]) if copy else found[name] for name in names]
    return Image(len(header).to_bytes(8, "little") + header, tensors)


def _split(node: Any, path: str, found: dict[str, Tensor]) -> Any:
    """Plain data of ``node`` with a mark for each tensor, which goes to ``found`` by its path."""
    where = path or "/"
    match node:
        case Tensor():
            if node.dtype not in _DTYPES or node.layout != torch.strided or node.is_meta:
                kind = f"{node.layout} {node.dtype} tensor on {node.device}"
                raise CheckpointError(f"{where}: a {kind} cannot be stored")
            found[path] = node
            return {_TENSOR: path}
        case None | bool() | str():
            return node
        case int():
            return int(node)
        case float():
            if not math.isfinite(node):
                raise CheckpointError(f"{where} is {node}: only finite numbers can be stored")
            return float(node)
        case list():
            return [_split(child, f"{path}/{i}", found) for i, child in enumerate(node)]
        case dict():
            for key in node:
                if not isinstance(key, str) or key == _TENSOR:
                    raise CheckpointError(f"{where}: {key!r} cannot be a key, a string can")
            # JSON pointers (RFC 6901): a name of its own for every place, whatever the keys.
            steps = {key: key.replace("~", "~0").replace("/", "~1") for key in node}
            return {key: _split(node[key], f"{path}/{steps[key]}", found) for key in node}
    choices = "dict, list, Tensor, int, float, str, bool or None"
    raise CheckpointError(f"{where}: a {type(node).__name__} cannot be stored; use {choices}")


def _join(node: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(node, list):
        return [_join(child, tensors) for child in node]
    if isinstance(node, dict):
        if node.keys() == {_TENSOR}:
            return tensors[node[_TENSOR]]
        return {key: _join(child, tensors) for key, child in node.items()}
    return node


def _nbytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)


def _raw(tensor: Tensor) -> memoryview:
    flat = tensor.detach().cpu().resolve_neg().reshape(-1)
    if flat.stride(0) != 1:
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8).numpy().data


def _header(data: bytes) -> dict[str, Any]:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is not a finite number")


def _damage(data: bytes) -> str:
    """Say what is wrong with a file whose checksum does not fit."""
    try:
        header = _header(data)
        header.pop("__metadata__")
        end = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        missing = 8 + int.from_bytes(data[:8], "little") + end - len(data)
    except _MALFORMED:
        return f"damaged or cut off in its header ({len(data):,} bytes)"
    if missing > 0:
        return f"cut off: {len(data):,} bytes, {missing:,} are missing"
    if missing < 0:
        return f"{-missing:,} bytes too long ({len(data):,} bytes)"
    return f"damaged: the checksum of its {len(data):,} bytes does not fit"


def write_image(path: Path, image: Image) -> None:
    def fill(temporary: Path) -> None:
        with temporary.open("wb", buffering=0) as file:
            digest, offset = hashlib.sha256(), 0
            for piece in image.pieces():
                digest.update(piece)
                offset = write_at(file.fileno(), piece, offset)
            write_at(file.fileno(), memoryview(digest.hexdigest().encode()), _DIGEST.start)
            os.fsync(file.fileno())

    _put(path, fill, image.bytes_needed)


def link_file(source: Path, path: Path) -> None:
    """Give the file ``source`` a second name, or copy it where the file system has no links."""

    def fill(temporary: Path) -> None:
        temporary.unlink(missing_ok=True)
        try:
            os.link(source, temporary)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            shutil.copyfile(source, temporary)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())

    _put(path, fill, source.stat().st_size)


def _put(path: Path, fill: Callable[[Path], None], bytes_needed: int) -> None:
    """Make ``path`` the file that ``fill`` writes, or leave everything as it was."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            fill(temporary)
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the first error is the one to tell
                temporary.unlink(missing_ok=True)
            raise
        fsync_folder(path.parent)
        for entry in path.parent.iterdir():
            if _LEFTOVER.fullmatch(entry.name):
                entry.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointWriteError(path, bytes_needed, error.strerror or str(error)) from error
