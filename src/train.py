"""Train an agent.

    python src/train.py task=cartpole-swingup mode=back_plan preset=quick

The same command line goes on where it stopped. All keys are in cfgs/default.yaml. Many runs:

    python src/train.py -m task=cup-catch,reacher-easy mode=default,back_plan seed=1,2,3
"""

import sys

import hydra
from omegaconf import DictConfig

from difftori import cli
from difftori.process import quietly_interruptible


@hydra.main(version_base="1.3", config_path="../cfgs", config_name="default")
def main(cfg: DictConfig) -> None:
    from difftori.training.start import train  # loads torch: after --help and typos

    sys.exit(cli.guarded(train, cfg))


if __name__ == "__main__":
    sys.argv[1:] = cli.rename_tasks(cli.multirun_first(sys.argv[1:]))
    cli.refuse_unknown_words(sys.argv[1:])
    quietly_interruptible(main)
