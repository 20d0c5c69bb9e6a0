"""What one step of the plan's gradient does to an agent, and how many updates mend it.

    python benchmarks/gradient_step.py logs/cheetah-run/state/back_plan/tuned/1

With ``mode=back_plan agent=tuned`` the last checkpoint of a run holds the gradient of its last
episode, which waits for the next one. Here a copy of the run takes that step, and is then trained
with updates alone; another copy takes the same updates without the step. Without a waiting gradient
there is only the latter: what single updates do. The target networks, which move slowly, act beside
the model each time. The returns are of the same episodes.
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
from difftori.config import from_flat, plain_defaults
from difftori.training.estimate import build_in
from difftori.training.evaluation import evaluate
from difftori.training.trainer import Trainer

UPDATES = (0, 1, 3, 10, 30, 100)


def copy_of(run: Path, folder: str) -> Trainer:
    """The run as its last checkpoint left it, in another folder."""
    here = {"log_dir": folder, "compile": False, "start_from": None}
    config = from_flat({**plain_defaults(), **read_config(run), **here})
    shutil.copytree(run / "checkpoints", config.run.folder / "checkpoints")
    shutil.copy(run / "metrics.jsonl", config.run.folder)
    return build_in(folder, config)


def score_both(trainer: Trainer, episodes: int) -> tuple[str, str]:
    """``score`` of the model, and of the target networks in its place."""
    model, target = trainer.model, trainer.learner.target
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    own = score(trainer, episodes)
    model.load_state_dict(target.state_dict())
    slow = score(trainer, episodes)
    model.load_state_dict(weights)
    return own, slow


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
            if step:
                if (trainer.plan_gradient.state_dict() or {}).get("gradient") is None:
                    continue
                trainer._apply_plan_gradient()
            counters, each = trainer.counters, trainer.config.run.updates_per_step
            cells = []
            for before, count in pairwise((0, *UPDATES)):
                for done in range(before, count):
                    trainer._update(counters.agent_step + done // each, more=False)
                cells.append(score_both(trainer, arguments.episodes))
        name = f"{run}, {'after' if step else 'without'} the step"
        for who, row in zip(("the model", "its targets"), zip(*cells, strict=True), strict=True):
            print(f"| {name}: {who} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
