"""Watch a run's agent in a window.

    python src/watch.py run=logs/cartpole-swingup/state/back_plan/default/1

All keys are in cfgs/watch.yaml.
"""

import sys

import hydra
from omegaconf import DictConfig

from difftori import cli
from difftori.process import quietly_interruptible


@hydra.main(version_base="1.3", config_path="../cfgs", config_name="watch")
def main(cfg: DictConfig) -> None:
    from difftori.viewing.watch_run import watch_run

    sys.exit(cli.guarded(watch_run, cfg))


if __name__ == "__main__":
    cli.refuse_unknown_words(sys.argv[1:], "watch")
    quietly_interruptible(main)
