"""conda's file, pip's files and the Makefile install the same versions."""

import re
from importlib.metadata import version
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
FILES = ("requirements.txt", "requirements-theseus.txt", "requirements-dev.txt")


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_every_requirement_is_pinned_and_installed() -> None:
    for name in FILES:
        for package, pinned in pins(name).items():
            assert version(package).partition("+")[0] == pinned, f"{name}: {package}"


def test_conda_takes_the_same_files_and_python() -> None:
    text = (ROOT / "environment.yaml").read_text()
    dependencies = yaml.safe_load(text)["dependencies"]
    assert "python=3.11" in dependencies
    assert {"pip": ["-r requirements.txt"]} in dependencies
    (line,) = re.findall(r"#   (.*pip install .*)", text)
    makefile = (ROOT / "Makefile").read_text()
    for part in ("THESEUS_FORCE_CUDA=0", "--no-build-isolation --no-deps", FILES[1]):
        assert part in line
        assert part in makefile
