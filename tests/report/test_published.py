"""Published curves are read, and what is wrong with a file is said in a line."""

from pathlib import Path

import pytest

from difftori.report.published import PublishedError, read_published

HEADER = "method,task,modality,env_step,mean,std,n_seeds,source\n"


def write(folder: Path, rows: str, header: str = HEADER) -> Path:
    path = folder / "published.csv"
    path.write_text(header + rows, encoding="utf-8-sig")
    return path


def test_rows_become_curves_in_order(tmp_path: Path) -> None:
    rows = "A,cup-catch,state,200,5,,,\nA,cup-catch,state,100,3,0.5,5,a table\n"
    table = read_published(write(tmp_path, rows))
    assert table[["method", "env_step", "mean"]].to_numpy().tolist() == [
        ["A", 100, 3],
        ["A", 200, 5],
    ]
    assert table["std"].fillna(-1).tolist() == [0.5, -1]
    assert table["n_seeds"].iloc[0] == "5"


def test_columns_that_are_not_needed_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "A,t,state,1,2\n", "method,task,modality,env_step,mean\n")
    assert read_published(path)["std"].isna().all()


def test_rows_without_numbers_are_left_out(tmp_path: Path) -> None:
    rows = "A,t,state,1,2,,,\nA,t,state,one,2,,,\nA,t,state,2,nan,,,\nA,t\n"
    assert read_published(write(tmp_path, rows))["env_step"].tolist() == [1]
    with pytest.raises(PublishedError, match=r"published\.csv: no row has numbers"):
        read_published(write(tmp_path, "A,t,state,1,x,,,\n"), ("A",))


def test_methods_are_chosen_by_pattern_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "".join(f"{name},t,state,1,2,,,\n" for name in ("B2", "A", "B1")))
    assert read_published(path, ("B*", "A"))["method"].tolist() == ["B1", "B2", "A"]
    with pytest.raises(PublishedError, match="no method C; it has A, B1, B2"):
        read_published(path, ("C",))


def test_a_file_that_is_not_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(PublishedError, match="lacks method, task"):
        read_published(write(tmp_path, "1,2\n", "env_step,mean\n"))
    with pytest.raises(PublishedError, match="cannot be read: No such file"):
        read_published(tmp_path / "nowhere.csv")
    picture = tmp_path / "picture.png"
    for content in (b"\x89PNG\xff\xfe", b""):
        picture.write_bytes(content)
        with pytest.raises(PublishedError, match="it is not a CSV file"):
            read_published(picture)
