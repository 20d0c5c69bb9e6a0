"""What a task is, before an environment exists for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TaskSpec:
    """Names a task within a suite; each ``cfgs/task/NAME.yaml`` holds these values."""

    name: str
    """what users type and what logs show, for example ``cup-catch``"""
    suite: str
    """which simulator family makes it: a name in the registry of ``make_env``"""
    domain: str
    """the suite's own name of the body and its world, for example ``ball_in_cup``"""
    domain_task: str
    """the suite's own name of what is to be done, for example ``catch``"""
    action_repeat: int
    """environment steps that each action is held for, at least 1"""
    camera: int = 0
    """index of the fixed camera that pixels and videos are rendered from"""
    episode_length: int | None = None
    """environment steps after which an episode is cut; None leaves the task's own length"""
    episodic: bool | None = None
    """whether episodes can end by themselves, before their time is up; None: as the suite says"""
    env_kwargs: Mapping[str, Any] | None = None
    """of a Gymnasium environment's constructor"""
