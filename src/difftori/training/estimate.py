"""How long a run would take on this machine, told by its own trainer in two short episodes."""

import time
from collections.abc import Callable

from difftori.config import Config, from_flat
from difftori.monitoring.console import Console
from difftori.monitoring.metrics import Metrics
from difftori.training.signals import StopSignals
from difftori.training.start import build_trainer
from difftori.training.trainer import Trainer


class Stopwatch(Console):
    """Prints nothing, and times the phases of a run.

    All steps but the first, which also loads and allocates, of phases that have more than one.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        super().__init__()
        self.seconds_each: dict[str, float] = {}
        """of one step of each phase, by its name"""
        self._clock = clock

    def start(self, total: int, unit: str, done: int) -> None: ...

    def advance(self, done: int) -> None: ...

    def phase(self, name: str, total: int | None = None) -> None:
        self._phase_name, self._began, self._first_step = name, self._clock(), 0

    def phase_step(self, done: int) -> None:
        now = self._clock()
        each = (now - self._began) / max(1, done - self._first_step)
        if done <= 1:
            self.seconds_each.setdefault(self._phase_name, each)
            self._began, self._first_step = now, done
        else:
            self.seconds_each[self._phase_name] = each


def measure(config: Config, folder: str) -> dict[str, float]:
    """Seconds of one step of each phase; trains a little in a temporary ``folder``."""
    steps = max(config.learner.horizon + 2, 8)
    end = 2 * steps * config.env.action_repeat
    changes = {
        "exp_name": "speed",
        "train_steps": end,
        "eval_freq": end,
        "episode_length": end // 2,
        "seed_steps": steps,
        "max_buffer_size": 10**6,
        # as in most of a run: its last planner, with the full horizon, and no early stop
        "planner_start_step": 0,
        "horizon_schedule": config.learner.horizon,
        "rel_err_tolerance": 0,
        "compile": False,
        "save_video": False,
    }
    stopwatch = Stopwatch()
    trainer = build_in(folder, from_flat({**config.flat(), **changes}), stopwatch)
    trainer.run()
    trainer.close()
    return stopwatch.seconds_each


def estimate(config: Config, seconds: dict[str, float], episode_length: int) -> float:
    """Seconds of the whole run; ``episode_length`` in agent steps.

    Without a time of an update, because no episode was long enough to learn from, it counts none.
    """
    steps = config.run.train_steps / config.env.action_repeat
    at_random = min(config.run.seed_steps, steps)
    updates = config.run.updates_per_step * steps
    evaluations = config.run.train_steps // config.evaluation.eval_freq
    return (
        at_random * seconds["acting at random"]
        + (steps - at_random) * seconds["acting"]
        + updates * seconds.get("updating", 0.0)
        + evaluations * episode_length * seconds["evaluating"]
    )


def build_in(folder: str, config: Config, console: Console | None = None) -> Trainer:
    """The run that ``train.py`` would build, in another folder; raises as ``build_trainer``."""
    config = from_flat({**config.flat(), "log_dir": folder})
    config.run.folder.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(config.run.folder)
    return build_trainer(config, metrics, console or Stopwatch(), StopSignals())
