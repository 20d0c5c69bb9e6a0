"""Train an agent.

    python src/train.py task=cartpole-swingup mode=back_plan preset=quick

The same command line goes on where it stopped. All keys are in cfgs/default.yaml.
"""

import sys

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from difftori import cli


@hydra.main(version_base="1.3", config_path="../cfgs", config_name="default")
def main(cfg: DictConfig) -> int:
    from difftori.run.session import train  # torch and the simulator load after --help and typos

    code = cli.guarded(train, cfg)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        return code  # leaving here would end the other runs too
    sys.exit(code)


if __name__ == "__main__":
    cli.refuse_unknown_keys(sys.argv[1:])
    main()
