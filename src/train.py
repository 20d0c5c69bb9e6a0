"""Train an agent.

    python src/train.py task=cartpole-swingup mode=back_plan preset=quick

The same command line goes on where it stopped. All keys are in cfgs/default.yaml. Many runs:

    python src/train.py -m task=cup-catch,reacher-easy mode=default,back_plan seed=1,2,3
"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from difftori import cli
from difftori.study.launch import exit_with_noted_code


@hydra.main(version_base="1.3", config_path="../cfgs", config_name="default")
def main(cfg: DictConfig) -> int:
    # torch and the simulator are loaded after --help and typos
    from difftori.training.signals import RESUME_EXIT_CODE
    from difftori.training.start import train

    code = cli.guarded(train, cfg)
    stopped = code in (RESUME_EXIT_CODE, cli.INTERRUPTED_EXIT_CODE)
    if HydraConfig.get().mode == RunMode.MULTIRUN and not stopped:
        return code  # one run that failed does not end the others
    sys.exit(code)


if __name__ == "__main__":
    sys.argv[1:] = cli.rename_tasks(sys.argv[1:])
    cli.refuse_unknown_words(sys.argv[1:])
    cli.refuse_missing_launchers(sys.argv[1:])
    cli.quietly_interruptible(main)
    exit_with_noted_code()
