"""Checkpoints: equal content gives equal bytes, damage is found, kills leave a whole one."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difftori.checkpoints import tree_file
from difftori.checkpoints.store import CheckpointStore
from difftori.checkpoints.tree_file import (
    CheckpointError,
    CheckpointWriteError,
    load_tree,
    save_tree,
    tree_bytes,
)

SRC = Path(__file__).parents[2] / "src"
DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool),
    *(torch.int64, torch.int32, torch.int16, torch.int8),
    *(torch.uint64, torch.uint32, torch.uint16, torch.uint8),
]


def small_tree(number: int = 1) -> dict[str, Any]:
    tensor = torch.full((5, 3), float(number))
    return {
        "number": number,
        "model": {"w": tensor, "flat": tensor.view(-1), "t": tensor.t(), "none": None},
        "list": [torch.tensor(number), 0.1, "ü", True, {}, [], 2**128 + 1],
    }


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
    tensor = bits.view(dtype)[..., 0]  # any bits, so NaN and infinities too
    if shape and draw(st.booleans()):
        tensor = tensor.transpose(0, -1)
    if draw(st.booleans()):
        tensor = tensor.contiguous()
    return tensor.expand(2, *tensor.shape) if draw(st.booleans()) else tensor


LEAVES = (
    tensors()
    | st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
NODES = st.recursive(
    LEAVES,
    lambda node: st.lists(node, max_size=4) | st.dictionaries(st.text(max_size=5), node),
    max_leaves=12,
)
TREES = st.dictionaries(st.text(st.sampled_from("a/~0_é"), max_size=3), NODES, max_size=5)
no_fixture_check = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@no_fixture_check
@given(tree=TREES)
def test_what_comes_back_is_what_was_stored(tmp_path: Path, tree: Any) -> None:
    path = tmp_path / "a.safetensors"
    save_tree(path, tree)
    assert same(load_tree(path), tree)
    assert path.stat().st_size == tree_bytes(tree)


@no_fixture_check
@given(tree=TREES)
def test_equal_content_in_another_order_gives_equal_bytes(tmp_path: Path, tree: Any) -> None:
    def reordered(node: Any) -> Any:
        if isinstance(node, dict):
            return {key: reordered(node[key]) for key in reversed(node)}
        return [reordered(child) for child in node] if isinstance(node, list) else node

    one, other = tmp_path / "1.safetensors", tmp_path / "2.safetensors"
    save_tree(one, tree)
    save_tree(other, reordered(load_tree(one)))
    assert one.read_bytes() == other.read_bytes()


def test_a_process_with_another_hash_seed_writes_equal_bytes(tmp_path: Path) -> None:
    script = (
        "import sys, torch; from pathlib import Path\n"
        "from difftori.checkpoints.tree_file import save_tree\n"
        "keys = {f'k{i}' for i in range(50)}\n"
        "save_tree(Path(sys.argv[1]), {k: {'x': torch.arange(3), 'v': k} for k in keys})"
    )
    written, here = tmp_path / "1.safetensors", tmp_path / "here.safetensors"
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": str(SRC)}
    subprocess.run([sys.executable, "-c", script, written], env=environment, check=True)
    save_tree(here, {f"k{i}": {"v": f"k{i}", "x": torch.arange(3)} for i in range(50)})
    assert written.read_bytes() == here.read_bytes()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (4, 3)], ids=str)
def test_every_dtype_and_layout(tmp_path: Path, dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    size = max(1, torch.Size(shape).numel())
    whole = torch.randint(0, 2, (2 * size,)).to(dtype)
    tensor = whole[: torch.Size(shape).numel()].reshape(shape)
    tree = {
        "a": tensor,
        "shared": tensor,
        "strided": whole[::2],
        "step5": whole.as_strided((1,), (5,)),
    }
    if tensor.dim() == 2:
        tree["transposed"] = tensor.t()
    path = tmp_path / "a.safetensors"
    save_tree(path, tree)
    loaded = load_tree(path)
    assert same(loaded, tree)
    loaded["a"].zero_()
    assert same(loaded["shared"], tensor)


def test_the_file_opens_with_the_plain_library(tmp_path: Path) -> None:
    save_tree(tmp_path / "a.safetensors", small_tree(7))
    with safetensors.safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("/model/w"), small_tree(7)["model"]["w"])
        assert json.loads(file.metadata()["tree"])["number"] == 7


@pytest.mark.parametrize(
    ("tree", "place"),
    [
        ({"a": [1.0, float("nan")]}, "/a/1 is nan"),
        ({"a": {"b": float("-inf")}}, "/a/b is -inf"),
        ({"a": (1, 2)}, "/a: a tuple"),
        ({"state": {0: 1}}, "/state: 0 cannot be a key"),
        ({"a": {"__tensor__": "b"}}, "/a: '__tensor__' cannot be a key"),
        ({"a": torch.zeros(2, dtype=torch.complex64)}, "/a: a torch.strided torch.complex64"),
        ({"a": torch.zeros(2).to_sparse()}, "/a: a torch.sparse_coo"),
        ({"a": torch.zeros(2, device="meta")}, "tensor on meta"),
        ({"a": print}, "/a: a builtin_function_or_method"),
        ({"a": 10**5000}, "cannot be stored"),
        ({"\ud800": torch.zeros(1)}, "cannot be stored"),
    ],
)
def test_what_cannot_be_stored_is_refused_by_its_place(
    tmp_path: Path, tree: Any, place: str
) -> None:
    path = tmp_path / "a.safetensors"
    with pytest.raises(CheckpointError, match=re.escape(place)):
        save_tree(path, tree)
    assert list(tmp_path.iterdir()) == []


def test_any_flipped_cut_or_added_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tree(path, small_tree())
    good = path.read_bytes()

    def refuse(data: bytes) -> str:
        path.write_bytes(data)
        with pytest.raises(CheckpointError) as caught:
            load_tree(path)
        assert str(path) in str(caught.value)
        return str(caught.value)

    for at in range(len(good)):
        refuse(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        refuse(good[:at])
    for extra in (b"\0", b"x", b" " * 8, good):
        assert "too long" in refuse(good + extra)
    assert "cut off: " in refuse(good[:-1])
    assert "empty" in refuse(b"")
    assert "the checksum" in refuse(good[:-1] + b"!")
    refuse(good[:8] + good[9:] + b" ")
    path.write_bytes(good)
    assert same(load_tree(path), small_tree())


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (os.mkdir, (str(tmp_path / "executed"),))

    path = tmp_path / "step_000000000001.safetensors"
    torch.save({"a": Hostile()}, path)
    with pytest.raises(CheckpointError, match="not a difftori-checkpoint-1"):
        load_tree(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "tree_text", ["[", "NaN", '{"__tensor__":"/no"}', '{"__tensor__":[]}', "[" * 10**5]
)
def test_a_well_formed_file_with_hostile_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tree_text: str
) -> None:
    path = tmp_path / "a.safetensors"
    dumps = json.dumps
    with monkeypatch.context() as patch:
        patch.setattr(
            tree_file.json,
            "dumps",
            lambda node, **how: tree_text if "sort_keys" in how else dumps(node, **how),
        )
        save_tree(path, {"a": torch.zeros(2)})
    with pytest.raises(CheckpointError, match="malformed"):
        load_tree(path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["os.pwrite", "os.fsync", "pathlib.Path.replace"])
def test_errors_of_the_disk_leave_the_old_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    store = CheckpointStore(tmp_path)
    store.save(1, small_tree(1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(CheckpointWriteError, match=os.strerror(code)) as caught:
            store.save(2, small_tree(2))
        store.save_async(2, small_tree(2), best=True)
        store.wait()
    assert caught.value.path == tmp_path / "step_000000000002.safetensors"
    assert caught.value.bytes_needed == tree_bytes(small_tree(2))
    assert [error.path for error in store.poll()] == [tmp_path / "best.safetensors"]
    assert store.poll() == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    store.save(2, small_tree(2))
    assert store.numbers() == [1, 2]


def test_a_file_size_limit_is_an_error_and_the_interpreter_ends_after_the_write(
    tmp_path: Path,
) -> None:
    script = """
import resource, sys, torch
from pathlib import Path
from difftori.checkpoints.store import CheckpointStore
from difftori.checkpoints.tree_file import CheckpointWriteError
store = CheckpointStore(Path(sys.argv[1]))
store.save(1, {"a": torch.zeros(1000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    store.save(2, {"a": torch.zeros(10 << 20)})
except CheckpointWriteError as error:
    print(error)
store.save_async(2, {"a": torch.zeros(10 << 20)})
store.wait()
print(*store.poll())
store.save(3, {"a": torch.zeros(1000)})
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
store.save_async(4, {"a": torch.ones(5_000_000)})
sys.exit(3)
"""
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    command = [sys.executable, "-c", script, tmp_path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert done.stdout.count("File too large (needs 41,94") == 2
    assert names(tmp_path) == [f"step_{n:012d}.safetensors" for n in (3, 4)]
    assert torch.equal(load_tree(tmp_path / names(tmp_path)[1])["a"], torch.ones(5_000_000))


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.latest() is None
    for number in (3, 5, 5, 8, 13):
        store.save(number, small_tree(number), best=number == 5)
    assert store.numbers() == [8, 13]
    assert load_tree(store.best_path)["number"] == 5
    store.save_async(21, small_tree(21), best=True)
    found = store.latest()
    assert found is not None
    assert found[0] == 21
    assert same(found[1], small_tree(21))
    assert load_tree(store.best_path)["number"] == 21
    with pytest.raises(ValueError, match="20 is below 21"):
        store.save(20, small_tree(20))


def test_best_is_a_copy_where_there_are_no_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", no_links)
    store = CheckpointStore(tmp_path)
    store.save(1, small_tree(1), best=True)
    store.save(2, small_tree(2))
    assert load_tree(store.best_path)["number"] == load_tree(store.path(1))["number"] == 1


def test_leftovers_are_ignored_and_only_ours_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    ours = {".step_000000000009.safetensors.tmp", ".best.safetensors.tmp"}
    others = {
        "notes.tmp",
        ".hidden",
        "step_7.safetensors",
        ".x.tmp",
        "step_000000000009.safetensors.bak",
    }
    for name in ours | others:
        (tmp_path / name).write_bytes(b"half")
    assert store.latest() is None
    store.save(1, small_tree())
    assert set(names(tmp_path)) == others | {"step_000000000001.safetensors"}


def test_the_one_before_is_used_when_the_newest_is_damaged(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for number in (1, 2):
        store.save(number, small_tree(number))
    store.path(2).write_bytes(store.path(2).read_bytes()[:-1])
    found = store.latest()
    assert found is not None
    assert found[0] == 1
    assert len(store.skipped) == 1
    assert "step_000000000002.safetensors: cut off" in store.skipped[0]
    assert store.numbers() == [1, 2]
    # Lower than the refused one: the run went on from number 1, and keeps two good ones.
    store.save(1, small_tree(1))
    assert store.numbers() == [1]


def test_going_on_from_before_a_damaged_one_keeps_two_good_ones(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for number in (10, 20):
        store.save(number, small_tree(number))
    store.path(20).write_bytes(b"")
    store.latest()
    store.save(15, small_tree(15))
    assert store.numbers() == [10, 15]


def test_a_refused_tree_falls_back_and_none_left_deletes_nothing(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for number in (1, 2):
        store.save(number, small_tree(number))

    def only(good: int) -> Any:
        def validate(tree: Any) -> None:
            if tree["number"] != good:
                raise CheckpointError(f"replay data of {tree['number']} is damaged")

        return validate

    found = store.latest(only(1))
    assert found is not None
    assert found[0] == 1
    assert "refused: replay data of 2" in store.skipped[0]
    with pytest.raises(CheckpointError, match=r"(?s)nothing was deleted.*of 2.*of 1 is damaged"):
        store.latest(only(3))
    assert store.numbers() == [1, 2]


def test_a_background_save_is_of_the_moment_of_the_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, order, replace = threading.Event(), [], Path.replace

    def slow(source: Path, target: Path) -> Path:
        go.wait(10)
        order.append(target.name)
        return replace(source, target)

    monkeypatch.setattr(Path, "replace", slow)
    store = CheckpointStore(tmp_path)
    state = {"w": torch.zeros(100), "n": [0]}
    store.save_async(1, state, before=lambda: order.append("before"))
    state["w"].fill_(1)
    state["n"][0] = 1
    assert store.numbers() == []
    threading.Timer(0.1, go.set).start()
    store.save_async(2, state)  # waits for the first
    assert order[:2] == ["before", store.path(1).name]
    store.wait()
    assert same(load_tree(store.path(1)), {"w": torch.zeros(100), "n": [0]})
    assert same(load_tree(store.path(2)), {"w": torch.ones(100), "n": [1]})


def test_an_error_before_the_background_write_is_told(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    store.save_async(1, small_tree(), before=lambda: [][0])
    store.wait()
    assert "IndexError" in str(store.poll()[0])
    assert store.numbers() == []
    with pytest.raises(CheckpointError, match="/a is nan"):
        store.save_async(1, {"a": float("nan")})


def test_without_a_thread_it_is_written_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    store = CheckpointStore(tmp_path)
    store.save_async(1, small_tree())
    assert store.numbers() == [1]
    assert store.poll() == []


def test_older_ones_that_stay_are_told_and_the_new_one_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    for number in (1, 2):
        store.save(number, small_tree(number))

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        with pytest.raises(CheckpointWriteError, match="written, but older ones cannot be"):
            store.save(3, small_tree(3))
    found = store.latest()
    assert found is not None
    assert found[0] == 3
    store.save(4, small_tree(4))
    assert store.numbers() == [3, 4]


# One process imports torch once, and forks a child to be killed for each line it is sent.
NURSERY = r"""
import os, sys
import torch
from pathlib import Path
from difftori.checkpoints.store import CheckpointStore

torch.set_num_threads(1)

def save_forever(folder):
    store = CheckpointStore(folder)
    found = store.latest()
    number = found[0] if found else 0
    os.write(1, f"{os.getpid()}\n".encode())
    while True:
        number += 1
        parts = [torch.full((80_000 + 1000 * (number % 7),), float(number)) for _ in range(4)]
        save = store.save if number % 3 else store.save_async
        save(number, {"number": number, "parts": parts}, best=number % 2 == 0)

for line in sys.stdin:
    child = os.fork()
    if not child:
        save_forever(Path(line.strip()))
    os.waitpid(child, 0)
    os.write(1, b"dead\n")
"""


@pytest.mark.slow
def test_kills_at_any_moment_leave_a_whole_checkpoint(tmp_path: Path) -> None:
    moments = random.Random(0)
    store, torn, before = CheckpointStore(tmp_path), 0, 0
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    with subprocess.Popen(
        [sys.executable, "-c", NURSERY],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as nursery:
        assert nursery.stdin
        assert nursery.stdout
        for _ in range(30):
            print(tmp_path, file=nursery.stdin, flush=True)
            child = int(nursery.stdout.readline())
            time.sleep(moments.uniform(0.02, 0.15))
            os.kill(child, signal.SIGKILL)
            nursery.stdout.readline()
            torn += bool(list(tmp_path.glob(".*.tmp")))
            found = store.latest()
            number = found[0] if found else 0
            assert number >= before
            assert store.skipped == []
            before = number
            paths = [store.path(n) for n in store.numbers()]
            if store.best_path.exists():
                paths.append(store.best_path)
            for path in paths:
                tree = load_tree(path)
                assert all(bool((part == tree["number"]).all()) for part in tree["parts"])
        nursery.stdin.close()
    assert before > 30
    assert torn > 0
