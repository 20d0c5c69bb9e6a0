"""Lines on disk: whole, in order, once, and as many as the checkpoint says."""

import resource
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from difftori.monitoring.record_file import RecordFile


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file can grow beyond ``size`` bytes: a write that crosses it is cut short, as on a full
    disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_missing_records_are_a_warning_with_both_numbers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "x").write_text("1\n")
    file = RecordFile(tmp_path / "x")
    file.truncate(7)
    assert "holds 1 records, the checkpoint knows 7" in caplog.messages[0]
    file.append("2")
    assert (file.records, file.path.read_text()) == (2, "1\n2\n")


def test_a_full_disk_is_one_warning_and_no_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "difftori")
    file = RecordFile(tmp_path / "x")
    file.append("1" * 10)
    with file_limit(15):
        for digit in "234":
            file.append(digit * 10)
    (warning,) = caplog.messages
    assert str(file.path) in warning
    assert "File too large" in warning
    file.append("5" * 10)
    assert file.path.read_text().split() == [digit * 10 for digit in "12345"]
    assert "can be written again" in caplog.messages[-1]


def test_a_folder_that_is_gone_is_a_warning_and_another_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = RecordFile(tmp_path / "gone" / "x")
    file.append("1")
    file.append("2")
    assert len(caplog.messages) == 1
    file.close()
    assert "2 records never reached" in caplog.messages[-1]


def test_a_cut_that_fails_is_made_up_before_the_next_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "x"
    path.write_text("1\n2\n3\n")
    opened = Path.open

    def read_only(self: Path, mode: str = "r") -> Any:
        if mode != "rb":
            raise OSError(30, "Read-only file system")
        return opened(self, mode)

    file = RecordFile(path)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", read_only)
        file.truncate(1)
    assert "Read-only file system" in caplog.messages[0]
    file.append("two")
    assert path.read_text() == "1\ntwo\n"


def test_a_file_that_somebody_emptied_begins_again(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "x", header="h")
    file.append("1")
    file.path.unlink()
    file.append("2")
    assert file.path.read_text() == "h\n2\n"


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 40), st.one_of(st.none(), st.integers(0, 60)), st.booleans()),
        max_size=12,
    )
)
def test_any_failures_leave_whole_lines_in_order(
    steps: list[tuple[int, int | None, bool]],
) -> None:
    """Each step appends a line, with or without a size limit, and may restart or cut the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        file, expected = RecordFile(path, header="h"), []
        for number, (length, limit, restart) in enumerate(steps):
            line = f"{number}:" + "x" * length
            with file_limit(1_000_000 if limit is None else limit):
                file.append(line)
            expected.append(line)
            if restart:
                file.close()
                file = RecordFile(path, header="h")
                expected = expected[: number + 1 - number % 2]
                file.truncate(len(expected))
            assert file.records == len(expected)
        file.close()
        text = path.read_text() if path.exists() else "h\n"
        assert text == "\n".join(["h", *expected]) + "\n"
