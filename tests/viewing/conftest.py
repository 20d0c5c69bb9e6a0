"""Rendering has to be prepared before anything imports dm_control, so at collection."""

from contextlib import suppress

from difftori.envs.rendering import prepare_rendering

with suppress(RuntimeError):
    prepare_rendering()
