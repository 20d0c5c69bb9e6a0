"""TensorBoard: a run's records in the run's own ``tensorboard/``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch.utils.tensorboard import SummaryWriter

from difftori.monitoring.trackers import Tracker


class TensorboardLog(Tracker):
    """One event file for each process; TensorBoard reads them one after the other."""

    name = "TensorBoard"

    def __init__(self, run_folder: Path, config: Mapping[str, Any], next_env_step: int) -> None:
        """Hide what a killed process wrote from ``next_env_step`` on: it is done again.

        Raises OSError if the folder cannot be written.
        """
        folder = run_folder / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._writer = SummaryWriter(str(folder), purge_step=next_env_step)
        text = yaml.safe_dump(dict(config), sort_keys=False)
        # four spaces before a line are Markdown's sign of code
        indented = "".join(f"    {line}\n" for line in text.splitlines())
        self._writer.add_text("config", indented, next_env_step)
        self._writer.flush()

    def log(self, record: Mapping[str, Any], category: str, env_step: int) -> None:
        for tag, value in record.items():
            if isinstance(value, str):
                self._writer.add_text(tag, value, env_step)
            elif value is not None:
                self._writer.add_scalar(tag, value, env_step)
        # on disk before the next record, so that a kill loses none
        self._writer.flush()

    def close(self, exit_code: int) -> None:
        self._writer.close()
