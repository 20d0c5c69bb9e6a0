"""The choice of a rendering backend, which each process makes once."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from difftori.envs import rendering as backends


@pytest.fixture
def headless(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A Linux machine without a display or a choice, on which the probe is not run.

    Returns the backends that were asked for; none of them works.
    """
    asked: list[str] = []

    def fails(backend: str) -> bool:
        asked.append(backend)
        return False

    for name in ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY"):
        # Set first, so that whatever the test stores is taken away at its end.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "dm_control._render", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(backends, "_renders", fails)
    return asked


def run(program: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a program in a process that has made no choice yet."""
    names = ("MUJOCO_GL", "PYOPENGL_PLATFORM", "DISPLAY")
    clean = {key: value for key, value in os.environ.items() if key not in names}
    clean["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    return subprocess.run(
        [sys.executable, "-c", program],
        env=clean | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_users_choice_is_respected_without_trying(
    headless: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "osmesa")
    assert backends.prepare_rendering() == "osmesa"
    assert os.environ["PYOPENGL_PLATFORM"] == "osmesa"
    assert headless == []


def test_a_users_choice_that_cannot_be_loaded_is_named() -> None:
    result = run(
        """
from difftori.envs import make_env
from difftori.sections import TaskConfig
for modality in ("state", "pixels"):
    try:
        make_env(TaskConfig(
            task="pendulum-swingup", suite="dmcontrol", domain="pendulum", domain_task="swingup",
            action_repeat=2, modality=modality,
        ))
    except RuntimeError as error:
        print(error)
""",
        MUJOCO_GL="nonsense",
    )
    first, second = result.stdout.splitlines()
    assert first.startswith("MUJOCO_GL=nonsense cannot be loaded (")
    assert first == second


@pytest.mark.parametrize(("working", "platform"), [("glfw", None), ("egl", "egl")])
def test_a_display_is_used_if_it_works(
    headless: list[str], monkeypatch: pytest.MonkeyPatch, working: str, platform: str | None
) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(backends, "_renders", lambda backend: backend == working)
    assert backends.prepare_rendering() == os.environ["MUJOCO_GL"] == working
    assert os.environ.get("PYOPENGL_PLATFORM") == platform


def test_the_first_backend_that_works_is_remembered(
    headless: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "_renders", lambda backend: backend == "osmesa")
    assert backends.prepare_rendering() == "osmesa"
    assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"] == "osmesa"
    monkeypatch.setattr(backends, "_renders", None)
    assert backends.prepare_rendering() == "osmesa"


def test_what_to_install_is_said_when_nothing_works(headless: list[str]) -> None:
    with pytest.raises(RuntimeError, match=r"libegl1 and libgl1-mesa-dri.*libosmesa6"):
        backends.prepare_rendering()
    assert headless == ["egl", "osmesa"]
    assert "MUJOCO_GL" not in os.environ


def test_a_choice_that_comes_too_late_is_an_error(
    headless: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "dm_control._render", SimpleNamespace(BACKEND="glfw"))
    with pytest.raises(RuntimeError, match="before the first environment"):
        backends.prepare_rendering()
    assert headless == []


def test_state_needs_no_display_and_says_nothing() -> None:
    result = run(
        """
import os, sys
from difftori.envs import make_env
from difftori.sections import TaskConfig
from difftori.envs.rendering import prepare_rendering
env, _ = make_env(TaskConfig(
    task="quadruped-escape", suite="dmcontrol", domain="quadruped", domain_task="escape",
    action_repeat=4, camera=2,
))
env.reset(seed=0)
env.step(env.action_space.sample())
assert "OpenGL" not in sys.modules and "glfw" not in sys.modules
assert "MUJOCO_GL" not in os.environ
for render in (env.render, prepare_rendering):
    try:
        render()
    except RuntimeError as error:
        assert "call prepare_rendering()" in str(error), error
    else:
        raise AssertionError("rendering was off, and nothing said so")
env.close()
"""
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


@pytest.mark.usefixtures("rendering")
def test_closed_environments_leave_no_trace_at_exit() -> None:
    result = run(
        """
import os
from difftori.envs import make_env
from difftori.sections import TaskConfig
pixels, state = (make_env(TaskConfig(
    task="pendulum-swingup", suite="dmcontrol", domain="pendulum", domain_task="swingup",
    action_repeat=2, modality=modality,
))[0] for modality in ("pixels", "state"))
assert os.environ["MUJOCO_GL"] == os.environ["PYOPENGL_PLATFORM"]
pixels.reset(seed=0)
state.reset(seed=0)
assert state.render(64, 64).any()
pixels.close()
state.close()
"""
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
