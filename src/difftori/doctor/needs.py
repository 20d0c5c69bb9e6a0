"""What the chosen command needs beside packages: a renderer, memory, disk, W&B."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from difftori.doctor.report import Finding, Verdict

RENDER_TIMEOUT_SECONDS = 300
LOGIN_TIMEOUT_SECONDS = 120
SWITCHED_OFF = ("off", "disable", "disabled", "false", "0")
"""values of MUJOCO_GL that ask for no renderer"""
WRITE_BYTES = 8 << 20
MEMORY_FILES = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current")

# In a process of its own: a driver can crash, and a choice of renderer cannot be undone.
_FRAME = """
import sys, time
sys.path.insert(0, sys.argv[1])
from difftori.envs.rendering import prepare_rendering
backend = prepare_rendering()
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 2"/><geom size="1" pos="0 0 -2"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 84, 84) as renderer:
    renderer.update_scene(data)
    assert renderer.render().any(), "the picture is black"
    began = time.perf_counter()
    for _ in range(20):
        renderer.update_scene(data)
        renderer.render()
    print("frame", backend or "display", (time.perf_counter() - began) * 50)
"""

_LOGIN = """
import wandb
wandb.setup(wandb.Settings(silent=True))
print("LOGIN", bool(wandb.login(prompt=False, verify=False)))
"""


def rendering(*, needed: bool) -> Finding:
    """Renders test frames as a run would; the backend that does is kept for this process.

    A chosen backend that does not work is always to fix: the simulator does not load with it.
    """
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    off = chosen in SWITCHED_OFF
    wrong: Verdict = "fix" if needed or (chosen and not off) else "note"
    source = str(Path(__file__).resolve().parents[2])
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _FRAME, source],
            capture_output=True,
            text=True,
            timeout=RENDER_TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        text = f"no test frame within {RENDER_TIMEOUT_SECONDS} s"
        return Finding(wrong, text, "try again when this machine is less busy")
    for line in probe.stdout.splitlines():
        if line.startswith("frame "):
            _, backend, milliseconds = line.split()
            if backend != "display":
                os.environ["MUJOCO_GL"] = backend
            return Finding("ok", f"{backend}, {float(milliseconds):.1f} ms for an 84×84 frame")
    remedy = "apt install libegl1 libgl1-mesa-dri"
    if chosen == "osmesa":
        remedy = "apt install libosmesa6, or unset MUJOCO_GL"
    elif chosen:
        remedy = "unset MUJOCO_GL"
    said = [line for line in probe.stderr.splitlines() if line and not line[0].isspace()]
    reason = said[-1][:110] if said else f"exit code {probe.returncode}"
    use = "" if wrong == "fix" else " (only pixels and videos need it)"
    return Finding(wrong, f"no test frame{use}: {reason}", remedy)


def memory(need: float, *, on_cpu: bool) -> Finding:
    """``need`` is the full replay buffer's, in bytes."""
    from difftori.training.resources import available_memory, format_bytes

    text = f"the replay buffer will take up to {format_bytes(need)}"
    if not on_cpu:
        return Finding("ok", f"{text} of the GPU's memory")
    room = [limit for limit in (available_memory(), memory_left_in_job()) if limit is not None]
    if not room:
        return Finding("note", f"{text}; the system does not say what is free")
    text += f", {format_bytes(min(room))} free"
    if need > min(room):
        return Finding("fix", text, "lower max_buffer_size, or ask for more memory")
    return Finding("ok", text)


def memory_left_in_job() -> int | None:
    """Bytes to this container's or job's limit; None if there is no limit."""
    try:
        limit, used = (int(Path(name).read_text()) for name in MEMORY_FILES)
    except (OSError, ValueError):  # no such file, or "max"
        return None
    return max(0, limit - used)


def disk(folder: Path, need: float) -> Finding:
    """Writes a little where the run would: a full or read-only disk shows only then."""
    from difftori.training.resources import format_bytes

    place = folder.absolute()
    while not place.exists() and place != place.parent:
        place = place.parent
    elsewhere = "free some space, or log_dir= elsewhere"
    try:
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(bytes(WRITE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return Finding("fix", f"{place} cannot be written: {error.strerror}", elsewhere)
    free = shutil.disk_usage(place).free
    text = f"the run will take up to {format_bytes(need)}, {format_bytes(free)} free in {place}"
    return Finding("fix", text, elsewhere) if need > free else Finding("ok", text)


def run_folder(config: Any) -> Finding:
    """What ``train.py`` would do with a run that is there: go on, delete it, or refuse."""
    from difftori.checkpoints.folder import plan_for

    folder, plan = config.run.folder, plan_for(config.run)
    text = f"{folder} holds a run"
    if plan == "resume":
        return _resumable(config, text)
    if plan == "overwrite":
        return Finding("note", f"{text}, which resume=false overwrite=true will delete")
    if plan == "refuse":
        text += ", which resume=false does not touch"
        return Finding("fix", text, "another exp_name, or resume=true, or overwrite=true")
    if plan == "refuse finished":
        return Finding("fix", f"{text}, finished and without checkpoints", "another exp_name")
    if plan == "restart":
        return Finding("ok", f"{text} without checkpoints: the same command begins it again")
    return Finding("ok", f"{folder} is free")


def _resumable(config: Any, text: str) -> Finding:
    from difftori.checkpoints.checkpoint import other_settings
    from difftori.checkpoints.store import CheckpointStore
    from difftori.checkpoints.tree_file import CheckpointError

    try:
        latest = CheckpointStore(config.run.folder / "checkpoints").latest()
    except CheckpointError:
        text += ", none of whose checkpoints can be read"
        return Finding("fix", text, "another exp_name, or resume=false overwrite=true")
    changes = "" if latest is None else other_settings(latest[1], config.flat())
    if not changes:
        return Finding("ok", f"{text}: the same command goes on with it")
    return Finding("fix", f"{text} with other settings: {changes}", "another exp_name")


def wandb_login(wandb_config: Any) -> Finding:
    """Whether there is a key; asks neither the user nor the server.

    Nothing here is to fix: a run that cannot use W&B goes on without it.
    """
    used, offline = wandb_config.use_wandb, wandb_config.wandb_mode == "offline"
    outcome = "; the run goes on without W&B" if used else "; not used: use_wandb=false"
    # in a process of its own: wandb starts a service, which writes to the terminal
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _LOGIN],
            capture_output=True,
            text=True,
            timeout=LOGIN_TIMEOUT_SECONDS,
        )
        answers = [line for line in probe.stdout.splitlines() if line.startswith("LOGIN ")]
        reason = (probe.stderr.strip().splitlines() or [f"exit code {probe.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        answers, reason = [], f"no answer within {LOGIN_TIMEOUT_SECONDS} s"
    if not answers:
        return Finding("note", f"cannot be used: {reason[:110]}{outcome}", "pip install wandb")
    if answers[0] == "LOGIN True":
        return Finding("ok", "logged in" if used else f"logged in{outcome}")
    if used and offline:
        return Finding("ok", "nobody is logged in; wandb_mode=offline keeps the records here")
    return Finding("note", f"nobody is logged in{outcome}", "wandb login")
