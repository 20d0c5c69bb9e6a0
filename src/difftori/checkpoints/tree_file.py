"""Files of nested plain data and tensors: each is complete, or refused when it is read.

A file is an ordinary safetensors file, so any safetensors reader opens it by hand::

    with safetensors.safe_open(path, framework="pt") as file:
        json.loads(file.metadata()["tree"][64:])  # plain data; {"__tensor__": name} is a tensor
        file.get_tensor("/model/_encoder.0.weight")

The first 64 characters of its metadata are the SHA-256 of the whole file, computed with ``0`` in
their place. There is one metadata entry only, because the library does not keep an order of
several: equal content gives equal bytes.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from difftori.checkpoints.files import write_durably

_TENSOR = "__tensor__"
_NO_DIGEST = "0" * 64
_BEGIN = 8 + len('{"__metadata__":{"tree":"')
"""where the digest stands: behind eight bytes of length and the names of the header"""
_END = _BEGIN + len(_NO_DIGEST)


class CheckpointError(Exception):
    """A checkpoint, or the data it refers to, cannot be written or cannot be used."""


class CheckpointWriteError(CheckpointError):
    """The disk did not take the bytes; what was there before is intact, and retrying is safe."""

    def __init__(self, path: Path, bytes_needed: int, error: OSError) -> None:
        reason = error.strerror or error
        super().__init__(f"cannot write {path}: {reason} (needs {bytes_needed:,} bytes)")


def save_tree(path: Path, tree: Any) -> None:
    """Write ``tree`` to ``path``, durably and all or nothing.

    ``tree``: nested dicts with string keys and lists, of tensors (any device, any strides), int,
    float, str, bool and None. Tensors that share memory are written twice and loaded apart.

    Raises:
        CheckpointError: content that cannot be stored, a number that is not finite included.
        CheckpointWriteError: the disk did not take it.
    """
    content = packed(tree)
    try:
        write_durably(path, content)
    except OSError as error:
        raise CheckpointWriteError(path, len(content), error) from error


def load_tree(path: Path) -> Any:
    """Read a tree back, tensors on the CPU and each with memory of its own.

    Raises:
        CheckpointError: names the file and what is wrong, unless every byte is as written.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if data[_BEGIN:_END] != _digest(data):
        state = "damaged" if data else "empty"
        raise CheckpointError(f"{path}: {state}: the checksum of {len(data):,} bytes does not fit")
    tensors = safetensors.torch.load(data)
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return json.loads(
        header["__metadata__"]["tree"][len(_NO_DIGEST) :],
        object_hook=lambda node: tensors[node[_TENSOR]] if node.keys() == {_TENSOR} else node,
    )


def packed(tree: Any) -> bytearray:
    """The bytes of the file that ``save_tree`` writes. Raises CheckpointError."""
    tensors: dict[str, Tensor] = {}
    plain = _without_tensors(tree, "", tensors)
    try:
        text = json.dumps(plain, sort_keys=True, allow_nan=False)
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"the tree cannot be stored: {error}") from error
    data = bytearray(safetensors.torch.save(tensors, metadata={"tree": _NO_DIGEST + text}))
    data[_BEGIN:_END] = _digest(data)
    return data


def _digest(data: bytes | bytearray) -> bytes:
    view = memoryview(data)
    digest = hashlib.sha256(view[:_BEGIN])
    digest.update(_NO_DIGEST.encode())
    digest.update(view[_END:])
    return digest.hexdigest().encode()


def _without_tensors(node: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """``node`` with a mark in place of each tensor, which goes to ``tensors`` by its path."""
    if isinstance(node, Tensor):
        assert path not in tensors, f"two tensors of the tree have the name {path}"
        # a copy of each, because the library refuses tensors that share memory
        tensors[path] = node.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        return {_TENSOR: path}
    if isinstance(node, dict):
        assert all(isinstance(key, str) for key in node), f"{path} has keys that are no strings"
        return {
            key: _without_tensors(child, f"{path}/{key}", tensors) for key, child in node.items()
        }
    if isinstance(node, list):
        return [_without_tensors(child, f"{path}/{i}", tensors) for i, child in enumerate(node)]
    return node
