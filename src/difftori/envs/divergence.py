"""A simulation of MuJoCo that diverged: it begins anew and goes on; that is no episode."""

import sys
from typing import Any


class PhysicsError(RuntimeError):
    """The simulation diverged."""


def refuse_divergence(data: Any) -> None:
    """Raise ``PhysicsError`` where MuJoCo has found bad positions, velocities or accelerations.

    It counts them in its ``MjData`` until the next reset. Anything else as ``data`` passes.
    """
    mujoco = sys.modules.get("mujoco")
    if mujoco is None or not isinstance(data, mujoco.MjData):
        return
    kinds = mujoco.mjtWarning
    bad = (kinds.mjWARN_BADQPOS, kinds.mjWARN_BADQVEL, kinds.mjWARN_BADQACC)
    named = [kind.name for kind in bad if data.warning[kind].number]
    if named:
        raise PhysicsError(f"the simulation diverged: {', '.join(named)}")
