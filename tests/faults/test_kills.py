"""A run that is killed at any moment ends like one that was never killed."""

from pathlib import Path

from kill_runs import KINDS, Killer


def test_a_killed_run_ends_in_the_same_bytes_wherever_it_was_killed(tmp_path: Path) -> None:
    report = Killer(tmp_path, ["mode=back_plan"], seed=1).run(kills=8)
    assert report.different == []
    assert all(report.landed[kind] for kind in KINDS), report.table()
