"""What one step of the plan's gradient does to an agent, and how many updates mend it.

    python benchmarks/gradient_step.py logs/cheetah-run/state/back_plan/tuned/1

With ``mode=back_plan agent=tuned`` the last checkpoint of a run holds the gradient of its last
episode, which waits for the next one. Here it is applied to a copy of the run, and the copy is then
trained with updates alone. The returns are of the same episodes each time.
"""

import argparse
import shutil
import sys
import tempfile
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from difftori.checkpoints.folder import read_config
from difftori.config import Config, from_flat
from difftori.training.estimate import build_in
from difftori.training.evaluation import evaluate
from difftori.training.trainer import Trainer

UPDATES = (0, 1, 3, 10, 30, 100)


def copy_of(run: Path, folder: str) -> Trainer:
    """The run as its last checkpoint left it, in another folder."""
    flat = {**read_config(run), "log_dir": folder, "compile": False, "start_from": None}
    config: Config = from_flat(flat)
    shutil.copytree(run / "checkpoints", config.run.folder / "checkpoints")
    shutil.copy(run / "metrics.jsonl", config.run.folder)
    return build_in(folder, config)


def score(trainer: Trainer, episodes: int) -> str:
    """Mean return and its standard error."""
    evaluator, counters = trainer.evaluator, trainer.counters
    while len(evaluator.envs) < episodes:
        evaluator.envs.append(evaluator.make_env())
    rewards = evaluate(
        evaluator.actor,
        evaluator.envs,
        seeds=range(episodes),
        agent_step=counters.agent_step,
        update_step=counters.update_step,
        device=evaluator.device,
    ).rewards
    return f"{np.mean(rewards):.0f} ± {np.std(rewards, ddof=1) / len(rewards) ** 0.5:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run's folder")
    parser.add_argument("--episodes", type=int, default=10, metavar="N", help="of each number")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    after = [f"{count} updates" for count in UPDATES]
    print(f"| run | before | {' | '.join(['right after it', *after[1:]])} |")
    print(f"| --- {'| ---: ' * (1 + len(UPDATES))}|")
    for run in arguments.runs:
        with tempfile.TemporaryDirectory() as folder, closing(copy_of(run, folder)) as trainer:
            state = trainer.plan_gradient.state_dict()
            if not state or state["gradient"] is None:
                parser.error(f"{run}: no gradient waits there; see --help")
            cells = [score(trainer, arguments.episodes)]
            trainer._apply_plan_gradient()
            done = 0
            for count in UPDATES:
                for _ in range(count - done):
                    trainer._update(trainer.counters.agent_step - 1, more=False)
                done = count
                cells.append(score(trainer, arguments.episodes))
        print(f"| {run} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
