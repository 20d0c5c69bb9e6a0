"""The check of a GPU, as far as it goes without one."""

import json
import sys
import time
from pathlib import Path

import gpu_check
import gpu_parts
import pytest


def test_a_part_that_fails_is_named_and_the_others_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(check: gpu_parts.Check) -> dict[str, object]:
        raise RuntimeError("no kernel image")

    parts = {
        "first": (broken, 0.5),
        "second": (lambda check: {"rows": {"plan": {"ms": 1.5}, "update": {"launches": 7}}}, 0.5),
    }
    monkeypatch.setattr(gpu_check, "PARTS", parts)
    words = ["--device", "cpu", "--minutes", "1", "--parts", "first", "second"]
    monkeypatch.setattr(sys, "argv", ["gpu_check.py", *words, "--out", str(tmp_path)])
    assert gpu_check.main() == 0
    written = json.loads((tmp_path / "no-gpu.json").read_text())
    assert written["first"]["not run"] == "RuntimeError: no kernel image"
    page = (tmp_path / "no-gpu.md").read_text()
    assert "- not run: RuntimeError: no kernel image" in page
    assert "| rows | ms | launches |" in page
    assert "| update |  | 7 |" in page


def test_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_check, "NEEDED", ("torch", "not_there"))
    monkeypatch.setattr(sys, "argv", ["gpu_check.py"])
    assert gpu_check.main() == 1
    assert "lacks not_there: make setup" in capsys.readouterr().out


def test_a_process_ends_when_the_time_is_over(tmp_path: Path) -> None:
    check = gpu_parts.Check("cpu", tmp_path / "part", seconds=60)
    begin = time.monotonic()
    process = check.run("-c", "import time; print('begun', flush=True); time.sleep(50)", seconds=10)
    assert process.code == -15
    assert process.last_words == "not finished when its time was over"
    assert process.output == "begun\n"
    assert time.monotonic() - begin < 40


def test_a_way_that_has_no_time_left_is_named(tmp_path: Path) -> None:
    found = gpu_parts.parity(gpu_parts.Check("cuda", tmp_path / "part", seconds=0))
    assert found == {"deviations": dict.fromkeys(gpu_parts.WAYS, "not run: no time left")}
