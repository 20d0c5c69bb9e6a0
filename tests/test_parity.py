"""The published code's numbers, replayed; and that a wrong number is noticed."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import parity

REFERENCE = Path(__file__).parent / "reference"
CASES = sorted(path.stem for path in REFERENCE.glob("*.json"))
SMALL = "state_interior"


def test_every_reference_case_is_here() -> None:
    assert CASES == ["pixels_interior", "state_interior", "state_saturated"]


@pytest.mark.parametrize("check", parity.CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", CASES)
def test_case(name: str, check: object) -> None:
    deviations = list(check(parity.Case.load(REFERENCE / f"{name}.json")))
    assert len(deviations) >= 1
    assert [deviation for deviation in deviations if not deviation.ok] == []


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One case, writable."""
    for suffix in (".json", ".npz", ".pt"):
        shutil.copyfile(REFERENCE / f"{SMALL}{suffix}", tmp_path / f"{SMALL}{suffix}")
    return tmp_path


def test_exits_0_and_prints_every_quantity(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert parity.main([str(folder)]) == 0
    out = capsys.readouterr().out
    for quantity in ("nets/z", "value/G", "theseus_forward/action", "back_plan/grad", "update/"):
        assert quantity in out
    assert "1 cases, 0 deviations too large" in out


def test_exits_1_when_one_weight_differs(folder: Path, capsys: pytest.CaptureFixture) -> None:
    path = folder / f"{SMALL}.pt"
    weights = torch.load(path, weights_only=True)
    weights["model"]["_reward.4.bias"] += 0.01
    torch.save(weights, path)
    assert parity.main([str(folder)]) == 1
    assert "FAIL nets/reward" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("key", "check"),
    [
        ("theseus_forward/action", parity.check_theseus_forward),
        ("back_plan/a_loss", parity.check_back_plan),
        ("back_plan/grad/_encoder.0.weight", parity.check_back_plan),
        ("back_plan/after/_dynamics.0.weight", parity.check_back_plan),
        ("update/priorities", parity.check_update),
        ("update/after/target/_Q1.0.weight", parity.check_update),
    ],
)
def test_notices_a_wrong_number(folder: Path, key: str, check: object) -> None:
    path = folder / f"{SMALL}.npz"
    with np.load(path) as arrays:
        data = dict(arrays)
    data[key] = data[key] + 0.01
    np.savez(path, **data)
    deviations = check(parity.Case.load(folder / f"{SMALL}.json"))
    assert [deviation.quantity for deviation in deviations if not deviation.ok]


def test_exits_2_on_an_empty_folder(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert parity.main([str(tmp_path)]) == 2
    assert "no reference cases" in capsys.readouterr().err
