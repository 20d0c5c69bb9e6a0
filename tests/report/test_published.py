"""Published curves are read, and what is wrong with a file is said in a line."""

from pathlib import Path

import numpy as np
import pytest

from difftori.report.published import PublishedError, PublishedKey, read_published

HEADER = "method,task,modality,env_step,mean,std,n_seeds,source\n"


def write(folder: Path, rows: str, header: str = HEADER) -> Path:
    path = folder / "published.csv"
    path.write_text(header + rows, encoding="utf-8-sig")
    return path


def test_rows_become_curves_in_order(tmp_path: Path) -> None:
    rows = "A,cup-catch,state,200,5,,,\nA,cup-catch,state,100,3,0.5,5,a table\n"
    curves, problems = read_published(write(tmp_path, rows))
    curve = curves[PublishedKey("A", "cup-catch", "state")]
    assert curve.mean.steps.tolist() == [100, 200]
    assert curve.mean.scores.tolist() == [3, 5]
    assert curve.std[0] == 0.5
    assert np.isnan(curve.std[1])
    assert curve.seeds == "5"
    assert problems == []


def test_columns_that_are_not_needed_may_be_missing(tmp_path: Path) -> None:
    path = write(tmp_path, "A,t,state,1,2\n", "method,task,modality,env_step,mean\n")
    assert len(read_published(path)[0]) == 1


def test_rows_without_numbers_are_left_out_and_told(tmp_path: Path) -> None:
    rows = "A,t,state,1,2,,,\nA,t,state,one,2,,,\nA,t,state,2,nan,,,\nA,t\n"
    curves, problems = read_published(write(tmp_path, rows))
    assert curves[PublishedKey("A", "t", "state")].mean.steps.tolist() == [1]
    assert "3 rows" in problems[0]


@pytest.mark.parametrize("rows", ["", "A,t,state,1,x,,,\n"])
@pytest.mark.parametrize("methods", [(), ("A",)])
def test_a_file_without_numbers_is_told_as_such(
    tmp_path: Path, rows: str, methods: tuple[str, ...]
) -> None:
    with pytest.raises(PublishedError, match=r"published\.csv: no row has numbers"):
        read_published(write(tmp_path, rows), methods)


def test_methods_are_chosen_by_pattern_in_the_order_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, "".join(f"{name},t,state,1,2,,,\n" for name in ("B2", "A", "B1")))
    assert [key.method for key in read_published(path, ("B*", "A"))[0]] == ["B1", "B2", "A"]
    with pytest.raises(PublishedError, match="no method C; it has A, B1, B2"):
        read_published(path, ("C",))


def test_a_file_that_is_not_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(PublishedError, match="lacks the columns method, task"):
        read_published(write(tmp_path, "1,2\n", "env_step,mean\n"))
    with pytest.raises(PublishedError, match=r"lacks the column mean$"):
        read_published(write(tmp_path, "A,t,state,1\n", "method,task,modality,env_step\n"))
    with pytest.raises(PublishedError, match="cannot be read: No such file"):
        read_published(tmp_path / "nowhere.csv")
    picture = tmp_path / "picture.png"
    picture.write_bytes(b"\x89PNG\xff\xfe")
    with pytest.raises(PublishedError, match="it is not text"):
        read_published(picture)
