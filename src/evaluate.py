"""Score a run's agent.

    python src/evaluate.py run=logs/cartpole-swingup/state/back_plan/default/1 save_video=true

All keys are in cfgs/evaluate.yaml.
"""

import sys

import hydra
from omegaconf import DictConfig

from difftori import cli
from difftori.process import quietly_interruptible


@hydra.main(version_base="1.3", config_path="../cfgs", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    from difftori.viewing.score_run import score_run

    sys.exit(cli.guarded(score_run, cfg))


if __name__ == "__main__":
    cli.refuse_unknown_words(sys.argv[1:], "evaluate")
    quietly_interruptible(main)
