"""Published curves are read, and what is wrong with a file is said in a line."""

from pathlib import Path

import pytest

from difftori.report.published import PublishedError, read_published


def write(
    folder: Path, rows: str, header: str = "method,task,modality,env_step,mean,std\n"
) -> Path:
    path = folder / "published.csv"
    path.write_text(header + rows)
    return path


def test_rows_without_a_mean_are_left_out(tmp_path: Path) -> None:
    table = read_published(write(tmp_path, "A,t,state,1,2,0.5\nA,t,state,2,nan,\nA,t\n"))
    assert table[["method", "env_step", "mean"]].to_numpy().tolist() == [["A", 1, 2]]


def test_names_may_be_numbers_and_steps_without_end_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path, "7,t,state,1,2,\n7,t,state,1e400,2,\n")
    assert read_published(path, ("7",)).to_numpy().tolist() == [["7", "t", "state", 1, 2]]


def test_methods_are_chosen_by_pattern_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "".join(f"{name},t,state,1,2,\n" for name in ("B1", "A", "B2")))
    assert read_published(path, ("B*", "A"))["method"].tolist() == ["B1", "B2", "A"]
    with pytest.raises(PublishedError, match="no method C; it has A, B1, B2"):
        read_published(path, ("C",))


@pytest.mark.parametrize("content", [b"env_step,mean\n1,2\n", b"\x89PNG\xff\xfe", b"", None])
def test_a_file_that_is_not_one_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "picture.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(PublishedError, match=r"picture\.png holds no published curves"):
        read_published(path)
