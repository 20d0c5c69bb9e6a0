"""Files of a checkpoint: equal content gives equal bytes, and damage is found."""

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difftori.checkpoints.files import UNFINISHED
from difftori.checkpoints.tree_file import (
    CheckpointError,
    CheckpointWriteError,
    load_tree,
    save_tree,
)

DTYPES = [
    *(torch.float64, torch.float32, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.uint8),
]


def small_tree(number: int = 1) -> dict[str, Any]:
    tensor = torch.full((5, 3), float(number))
    return {
        "number": number,
        "model": {"w": tensor, "flat": tensor.view(-1), "t": tensor.t(), "none": None},
        "list": [torch.tensor(number), 0.1, "ü", True, {}, [], 2**128 + 1],
    }


def same(a: Any, b: Any) -> bool:
    """Equal in value, type and bits."""
    if isinstance(a, torch.Tensor):
        if not isinstance(b, torch.Tensor) or (a.dtype, a.shape) != (b.dtype, b.shape):
            return False
        copies = [x.clone(memory_format=torch.contiguous_format).reshape(-1) for x in (a, b)]
        bits = [x.view(torch.uint8) for x in copies]
        return torch.equal(*bits)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    dtype = draw(st.sampled_from(DTYPES))
    shape = draw(st.lists(st.integers(0, 4), max_size=3))
    bits = torch.randint(0, 2 if dtype is torch.bool else 256, (*shape, 8), dtype=torch.uint8)
    tensor = bits.view(dtype)[..., 0]  # any bits, so NaN and infinities too; not contiguous
    if shape and draw(st.booleans()):
        tensor = tensor.transpose(0, -1)
    return tensor.expand(2, *tensor.shape) if draw(st.booleans()) else tensor


LEAVES = (
    tensors()
    | st.none()
    | st.booleans()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
KEYS = st.text(st.sampled_from("ab~0_é"), max_size=3)
NODES = st.recursive(
    LEAVES,
    lambda node: st.lists(node, max_size=4) | st.dictionaries(KEYS, node, max_size=4),
    max_leaves=12,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(tree=st.dictionaries(KEYS, NODES, max_size=5))
def test_what_was_stored_comes_back_and_its_order_makes_no_other_bytes(
    tmp_path: Path, tree: Any
) -> None:
    def reordered(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: reordered(node[key]) for key in reversed(node)}
        return [reordered(child) for child in node] if isinstance(node, list) else node

    one, other = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_tree(one, tree)
    loaded = load_tree(one)
    assert same(loaded, tree)
    save_tree(other, reordered(loaded))
    assert one.read_bytes() == other.read_bytes()


def test_the_file_opens_with_the_plain_library(tmp_path: Path) -> None:
    save_tree(tmp_path / "a.safetensors", small_tree(7))
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("/model/w"), small_tree(7)["model"]["w"])
        assert json.loads(file.metadata()["tree"][64:])["number"] == 7


@pytest.mark.parametrize("content", [float("nan"), print])
def test_what_cannot_be_stored_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match="cannot be stored"):
        save_tree(tmp_path / "a.safetensors", {"a": [1.0, content]})
    assert list(tmp_path.iterdir()) == []


def test_any_flipped_cut_or_added_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tree(path, small_tree())
    good = path.read_bytes()
    damaged = [
        good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :]
        for at in range(0, len(good), 3)
    ]
    damaged += [good[:at] for at in range(0, len(good), 7)]
    damaged += [good + extra for extra in (b"\0", b"x", good)]
    for content in damaged:
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=re.escape(str(path))):
            load_tree(path)
    path.write_bytes(good)
    assert same(load_tree(path), small_tree())


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.open"])
def test_an_error_of_the_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_tree(path, small_tree(1))
    before = path.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(CheckpointWriteError, match=f"No space .*needs {len(before):,} bytes"):
            save_tree(path, small_tree(2))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_write_left_is_replaced_by_the_next(tmp_path: Path) -> None:
    (tmp_path / UNFINISHED).write_bytes(b"half")
    save_tree(tmp_path / "a.safetensors", small_tree())
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]
