"""Which settings a run may change as it goes on."""

from collections.abc import Mapping
from typing import Any

from difftori.config import ConfigError, from_flat, plain_defaults
from difftori.schedule import Schedule

MAY_DIFFER = frozenset(
    {
        *("train_steps", "eval_episodes", "save_video", "preset", "agent"),
        *("exp_name", "log_dir", "resume", "overwrite", "start_from", "save_every_minutes"),
        *("save_model", "device", "buffer_device", "threads", "compile"),
        *("cuda_graphs", "prefetch", "max_nonfinite", "max_failed_episodes"),
        *("use_wandb", "wandb_project", "wandb_entity", "wandb_mode", "wandb_group"),
        *("wandb_tags", "wandb_artifact", "use_tensorboard"),
    }
)
"""keys of the config that a resumed run may change"""


def binding(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of the flat keys, those that must stay as they are."""
    return {key: value for key, value in config.items() if key not in MAY_DIFFER}


def other_settings(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What keeps a run with the flat keys ``before`` from going on with ``now``: ``lr 1 (now 2)``.

    Empty if nothing does. A key that is younger than the run has had its default.
    """
    free = {key: value for key, value in now.items() if key in MAY_DIFFER}
    try:
        stored = from_flat({**free, **plain_defaults(), **before}, check_devices=False).flat()
    except ConfigError as error:  # of another version
        return str(error)
    return ", ".join(
        f"{key} {_shown(stored[key])} (now {_shown(now[key])})"
        for key in sorted(binding(now))
        if stored[key] != now[key]
    )


def _shown(value: Any) -> Any:
    """A schedule as one writes it; anything else as it is."""
    return Schedule(*value) if isinstance(value, list) and len(value) == 3 else value
