"""What one step of the plan's gradient does to an agent, and how many updates mend it.

    python benchmarks/gradient_step.py logs/cheetah-run/state/back_plan/tuned/1

With ``mode=back_plan agent=tuned`` the last checkpoint of a run holds the gradient of its last
episode, which waits for the next one. Here a copy of the run takes that step, and is then trained
with updates alone; another copy takes the same updates without the step. The returns are of the
same episodes each time.
"""

import argparse
import shutil
import sys
import tempfile
from contextlib import closing
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))

from difftori.checkpoints.folder import read_config
from difftori.config import from_flat
from difftori.training.estimate import build_in
from difftori.training.evaluation import evaluate
from difftori.training.trainer import Trainer

UPDATES = (0, 1, 3, 10, 30, 100)


def copy_of(run: Path, folder: str) -> Trainer:
    """The run as its last checkpoint left it, in another folder."""
    flat = {**read_config(run), "log_dir": folder, "compile": False, "start_from": None}
    config = from_flat(flat)
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
    print(f"| updates | {' | '.join(map(str, UPDATES))} |")
    print(f"| --- {'| ---: ' * len(UPDATES)}|")
    for run, step in product(arguments.runs, (False, True)):
        with tempfile.TemporaryDirectory() as folder, closing(copy_of(run, folder)) as trainer:
            state = trainer.plan_gradient.state_dict()
            if not state or state["gradient"] is None:
                parser.error(f"{run}: no gradient waits there; see --help")
            if step:
                trainer._apply_plan_gradient()
            cells = []
            for before, count in pairwise((0, *UPDATES)):
                for _ in range(count - before):
                    trainer._update(trainer.counters.agent_step - 1, more=False)
                cells.append(score(trainer, arguments.episodes))
        name = f"{run}, {'after' if step else 'without'} the step"
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
