"""Python and the packages: their versions against the pins, and whether they can be imported."""

import importlib
import platform
import sys
import warnings
from importlib import metadata
from pathlib import Path

from difftori.doctor.report import Finding, sentence

ROOT = Path(__file__).resolve().parents[3]
PYTHON = (3, 11)
NEEDED_FILES = ("requirements.txt", "requirements-theseus.txt")
TEST_FILE = "requirements-dev.txt"
SETUP = "make setup"
IMPORTED = ("torch", "theseus", "hydra", "mujoco", "dm_control.suite", "kornia", "imageio_ffmpeg")
"""by every run, or by those from pixels or with videos"""


def python() -> Finding:
    version = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] == PYTHON:
        return Finding("ok", version)
    wanted = ".".join(map(str, PYTHON))
    return Finding("fix", f"{version}, {wanted} is needed", f"make setup PYTHON=python{wanted}")


def versions() -> list[Finding]:
    """One line if all is as pinned, else one for each package that is not."""
    findings = []
    count = 0
    for name in NEEDED_FILES:
        for package, pinned in pins(name).items():
            count += 1
            finding = _compare(package, pinned, by_pip=name == NEEDED_FILES[0])
            if finding is not None:
                findings.append(finding)
    if not findings:
        findings.append(Finding("ok", f"all {count} in the versions that are pinned"))
    for_tests = pins(TEST_FILE)
    lacking = [p for p, pinned in for_tests.items() if installed(p) != pinned]
    if lacking:
        text = f"for the tests only: {', '.join(lacking)} not as pinned"
        findings.append(Finding("note", text, "make setup-dev"))
    return findings


def _compare(package: str, pinned: str, *, by_pip: bool) -> Finding | None:
    """None if the package is there in the version pinned."""
    found = installed(package)
    if found == pinned:
        return None
    remedy = f"pip install {package}=={pinned}" if by_pip else SETUP
    if found is None:
        return Finding("fix", f"{package} is missing", remedy)
    return Finding("fix", f"{package} {found} is installed, {pinned} is pinned", remedy)


def imports() -> list[Finding]:
    """One line for each package that is there and cannot be imported."""
    from difftori.envs.rendering import without_rendering

    findings = []
    with without_rendering(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in IMPORTED:
            try:
                importlib.import_module(name)
            except Exception as error:  # a broken package may raise anything
                findings.append(Finding("fix", f"{name} does not load: {sentence(error)}", SETUP))
    return findings or [Finding("ok", "torch, Theseus, MuJoCo and the rest load")]


def installed(package: str) -> str | None:
    """The version that is installed, without a build's local part; None if there is none."""
    try:
        return metadata.version(package).partition("+")[0]
    except (metadata.PackageNotFoundError, TypeError, AttributeError):
        return None


def pins(name: str) -> dict[str, str]:
    """Package and version of each line of a requirements file; empty if there is no such file."""
    try:
        lines = (ROOT / name).read_text().splitlines()
    except OSError:
        return {}
    pairs = [line.split("#")[0].strip().split("==") for line in lines]
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
