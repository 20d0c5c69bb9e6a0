"""A line for each finding, whatever a check does."""

import pytest

from difftori.doctor.report import Finding, Report


def test_one_line_each_and_a_count_of_what_is_to_fix(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()
    report.check("a", lambda: Finding("ok", "fine"))
    report.check("b", lambda: [Finding("note", "slow", "wait"), Finding("fix", "gone", "get it")])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [
        ["ok", "a", "fine"],
        ["note", "b", "slow", "→", "wait"],
        ["fix", "b", "gone", "→", "get", "it"],
    ]
    assert report.fixes == 1


def test_a_check_that_raises_is_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    def fails() -> Finding:
        raise OSError("libx.so: cannot open\nmore\nand more")

    report = Report()
    report.check("torch", fails)
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("fix")
    assert "OSError: libx.so: cannot open" in line
    assert report.fixes == 1


def test_progress_is_no_line_of_a_plain_report(capsys: pytest.CaptureFixture[str]) -> None:
    report = Report()

    def look() -> Finding:
        report.progress("speed: update")
        return Finding("ok", "fast")

    report.check("speed", look)
    assert len(capsys.readouterr().out.splitlines()) == 1
