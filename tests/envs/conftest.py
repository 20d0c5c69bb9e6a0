"""Rendering has to be prepared before anything imports dm_control, so at collection."""

import pytest

from difftori.envs.rendering import prepare_rendering

try:
    prepare_rendering()
    _cannot_render = ""
except RuntimeError as error:
    _cannot_render = str(error)


@pytest.fixture
def rendering() -> None:
    """Skips a test that needs pictures where none can be made."""
    if _cannot_render:
        pytest.skip(_cannot_render)
