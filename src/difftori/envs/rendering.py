"""Which OpenGL backend MuJoCo renders with.

MuJoCo and dm_control read ``MUJOCO_GL`` once, when they are first imported, so the choice has to
come before: call `prepare_rendering` early in any program that wants pixels or videos. Both
are imported inside `importing_mujoco`: a program that renders nothing needs no display, no driver
and no search for either.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from difftori.config import ConfigError

HEADLESS_BACKENDS = ("egl", "osmesa")
_OFF = ("off", "disable", "disabled", "false", "0")

# A driver can be present and still fail to give a context or a picture, and a failed attempt
# cannot be undone within a process: so one lit frame is rendered in a process of its own.
_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom size="1" pos="0 0 -2"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 16, 16) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any()
"""
_PROBE_TIMEOUT_SECONDS = 120


def prepare_rendering() -> str:
    """Make sure that images can be rendered in this process; returns the backend's name.

    ``MUJOCO_GL`` is respected if it is set. Otherwise a frame is rendered with GLFW, if there is a
    display, with EGL and with OSMesa, and the first that works is stored in ``MUJOCO_GL`` and, but
    for GLFW, ``PYOPENGL_PLATFORM``, for this process and those that it starts. The second call is
    free.

    Raises:
        RuntimeError: nothing works, or rendering has been switched off.
    """
    check_rendering()
    chosen = os.environ.get("MUJOCO_GL", "").lower().strip()
    if not chosen:
        chosen = _first_working_backend()
        os.environ["MUJOCO_GL"] = chosen
    if chosen in HEADLESS_BACKENDS:
        os.environ["PYOPENGL_PLATFORM"] = chosen
    return chosen


def prepare_suite_rendering(suite: str) -> None:
    """``prepare_rendering``, for the suites that are known to render with MuJoCo.

    Of Gymnasium's environments some draw without OpenGL: those that need it prepare it themselves.
    Raises ConfigError where nothing renders.
    """
    if suite in ("dmcontrol", "metaworld"):
        try:
            prepare_rendering()
        except RuntimeError as error:
            raise ConfigError(str(error)) from error


def check_rendering() -> None:
    """Raise a RuntimeError that names the remedy if rendering is switched off in this process."""
    _refuse_switched_off()
    loaded = sys.modules.get("dm_control._render")
    # Without a display and without a choice, dm_control takes GLFW, which then cannot render.
    useless = (*_OFF, "glfw") if is_headless() else _OFF
    if loaded is not None and loaded.BACKEND in useless:
        raise RuntimeError(
            "dm_control was imported in this process before a rendering backend was chosen: "
            "call prepare_rendering() before the first environment is made"
        )


def check_mujoco_rendering() -> None:
    """The same for suites that render with MuJoCo itself, not with dm_control."""
    _refuse_switched_off()
    loaded = sys.modules.get("mujoco.gl_context")
    if loaded is None:
        return
    context = getattr(loaded, "GLContext", None)  # missing where rendering was switched off
    if context is None or (is_headless() and context.__module__ == "mujoco.glfw"):
        raise RuntimeError(
            "mujoco was imported in this process before a rendering backend was chosen: "
            "call prepare_rendering() before the first environment is made"
        )


@contextmanager
def importing_mujoco() -> Iterator[None]:
    """Import MuJoCo in here: if nothing is rendered, no backend is looked for.

    A backend that the user or `prepare_rendering` has chosen stays, and so does a display's.

    Raises:
        RuntimeError: the backend cannot be loaded.
    """
    chosen = os.environ.get("MUJOCO_GL")
    if chosen or not is_headless():
        try:
            yield
        except (AttributeError, ImportError, RuntimeError) as error:  # OpenGL's, MuJoCo's own
            if chosen and not isinstance(error, ModuleNotFoundError):
                raise RuntimeError(
                    f"MUJOCO_GL={chosen} cannot be loaded ({error}): unset it, or choose another"
                ) from error
            raise
        return
    os.environ["MUJOCO_GL"] = "disabled"
    try:
        yield
    finally:
        del os.environ["MUJOCO_GL"]


def _refuse_switched_off() -> None:
    if os.environ.get("MUJOCO_GL", "").lower().strip() in _OFF:
        raise RuntimeError(
            f"MUJOCO_GL={os.environ['MUJOCO_GL']} switches rendering off: "
            "unset it to use pixels or videos"
        )


def is_headless() -> bool:
    """Linux without a display."""
    return sys.platform == "linux" and not os.environ.get("DISPLAY")


def _first_working_backend() -> str:
    # DISPLAY may name one that is gone, as in a terminal that outlives its connection
    for backend in HEADLESS_BACKENDS if is_headless() else ("glfw", *HEADLESS_BACKENDS):
        if _renders(backend):
            return backend
    raise RuntimeError(
        "Cannot render: there is no display that works, and neither EGL nor OSMesa does; install "
        "the Debian packages libegl1 and libgl1-mesa-dri (EGL), or libosmesa6 (OSMesa)."
    )


def _renders(backend: str) -> bool:
    environment = os.environ | {"MUJOCO_GL": backend}
    if backend in HEADLESS_BACKENDS:
        environment["PYOPENGL_PLATFORM"] = backend
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            timeout=_PROBE_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0
