"""Python and the packages: their versions against the pins, and whether they can be imported."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from difftori.doctor.report import Finding

ROOT = Path(__file__).resolve().parents[3]
PYTHON = (3, 11)
NEEDED_FILES = ("requirements.txt", "requirements-theseus.txt")
TEST_FILE = "requirements-dev.txt"
SETUP = "make setup"
IMPORTED = ("torch", "theseus", "hydra", "mujoco", "dm_control.suite", "kornia", "imageio_ffmpeg")
"""by every run, or by those from pixels or with videos"""

_IMPORT = """
import importlib, sys, warnings
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
        said = "loads"
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        said = f"{type(error).__name__}: {first}"[:160]
    print("IMPORT", name, said, flush=True)
"""


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
    # in a process of its own: a broken library can end it, and MuJoCo's choice of a renderer
    # cannot be undone
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT, *IMPORTED],
        env=os.environ | {"MUJOCO_GL": "disabled"},
        capture_output=True,
        text=True,
    )
    marked = [line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith("IMPORT")]
    findings = []
    for name in IMPORTED:
        said = [line[2] for line in marked if line[1] == name]
        if said != ["loads"]:
            reason = said[0] if said else f"exit code {done.returncode}"
            findings.append(Finding("fix", f"{name} does not load: {reason}", SETUP))
            if not said:
                break
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
