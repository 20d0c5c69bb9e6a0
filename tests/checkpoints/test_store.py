"""The checkpoint files of a run: which stay, and which is used."""

from pathlib import Path
from typing import Any

import pytest
from test_tree_file import same, small_tree

from difftori.checkpoints.store import CheckpointStore
from difftori.checkpoints.tree_file import CheckpointError, load_tree


def store_of(folder: Path, *numbers: int) -> CheckpointStore:
    store = CheckpointStore(folder)
    for number in numbers:
        store.save(number, small_tree(number))
    return store


def used(store: CheckpointStore, check: Any = None) -> int:
    """The number of the checkpoint that a run would go on from."""
    found = store.latest(check)
    assert found is not None
    assert same(found[1], small_tree(found[0]))
    return found[0]


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    store = store_of(tmp_path / "checkpoints")
    assert store.latest() is None
    for number in (3, 5, 5, 8, 13):
        store.save(number, small_tree(number), best=number == 5)
    assert store.numbers() == [8, 13]
    assert load_tree(store.best_path)["number"] == 5
    assert used(CheckpointStore(store.folder)) == 13


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    others = {"notes.tmp", ".hidden", "step_7.safetensors", "step_000000000009.safetensors.bak"}
    for name in others:
        (tmp_path / name).write_bytes(b"half")
    store = store_of(tmp_path)
    assert store.latest() is None
    store.save(1, small_tree())
    assert {path.name for path in tmp_path.iterdir()} == others | {"step_000000000001.safetensors"}


def test_going_on_from_before_a_damaged_one_keeps_two_good_ones(tmp_path: Path) -> None:
    store = store_of(tmp_path, 10, 20)
    store.path(20).write_bytes(store.path(20).read_bytes()[:-1])
    store = CheckpointStore(tmp_path)
    assert used(store) == 10
    assert store.numbers() == [10, 20]
    (problem,) = store.refused
    assert f"{store.path(20)}: damaged" in problem
    store.save(15, small_tree(15))
    assert store.numbers() == [10, 15]


def test_a_refused_tree_falls_back_and_none_left_deletes_nothing(tmp_path: Path) -> None:
    store = store_of(tmp_path, 1, 2)

    def only(good: int) -> Any:
        def check(tree: Any) -> None:
            if tree["number"] != good:
                raise CheckpointError(f"episode {tree['number']} is damaged")

        return check

    assert used(store, only(1)) == 1
    assert store.refused == [f"{store.path(2).name}: episode 2 is damaged"]
    with pytest.raises(CheckpointError, match=r"(?s)nothing was deleted.*episode 2.*episode 1 is"):
        store.latest(only(3))
    assert store.numbers() == [1, 2]


def test_older_ones_that_cannot_be_removed_are_told_and_the_new_one_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_of(tmp_path, 1, 2)

    def fail(*_: Any, **__: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", fail)
        store.save(3, small_tree(3))
    assert "stay: Operation not permitted" in caplog.text
    assert used(store) == 3
    store.save(4, small_tree(4))
    assert store.numbers() == [3, 4]


def test_checkpoints_of_an_earlier_version_are_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "replay").mkdir()
    with pytest.raises(CheckpointError, match="written by an earlier version"):
        CheckpointStore(tmp_path).latest()
    path = tmp_path / "best.safetensors"
    header = b'{"__metadata__":{"format":"difftori-checkpoint-1","sha256":"00"}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(CheckpointError, match="written by an earlier version"):
        load_tree(path)
