"""Draw learning curves, their aggregate over tasks, and performance profiles.

python src/plot.py logs
python src/plot.py logs/cartpole-swingup --metric iqm --out results/figures
python src/plot.py 'ours=logs/*/state/back_plan/*' 'TD-MPC=logs/*/state/default/*' --at 20k,50k
python src/plot.py 'logs/*/state/*/default' --published returns.csv
"""

import argparse
import logging
from pathlib import Path

from difftori.process import Parser, fail, quietly_interruptible
from difftori.report.folders import RunFolderError, find_runs


def main() -> None:
    arguments = _parser().parse_args()
    logging.basicConfig(format="%(levelname)s: %(message)s")
    if arguments.published_methods and arguments.published is None:
        fail("--published-methods needs --published FILE")
    try:
        folders = find_runs(arguments.runs)
    except RunFolderError as error:
        fail(str(error))
    try:
        # matplotlib, pandas and scipy are loaded after --help and typos
        from difftori.report.pages import write_all
        from difftori.report.published import PublishedError
    except ModuleNotFoundError as error:
        fail(f"pictures need {error.name}: pip install -r requirements.txt")
    options = {name: value for name, value in vars(arguments).items() if name != "runs"}
    try:
        paths = write_all(folders, **options)
    except (RunFolderError, PublishedError) as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or arguments.out} cannot be written: {error.strerror}")
    print("\n".join(map(str, paths)))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="python src/plot.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Runs are grouped by task, modality, mode and exp_name. Runs that go on are read "
        "as they are:\nfrom where a seed has no value yet, a curve has no interval.",
    )
    add = parser.add_argument
    add("runs", nargs="+", help="run folders, folders above them, or globs; LABEL=… groups them")
    add("--metric", choices=("mean", "iqm"), default="mean", help="over seeds (default: mean)")
    add(
        "--out", type=Path, default=Path("results/figures"), metavar="FOLDER",
        help="where pictures and tables go (default: results/figures)",
    )  # fmt: skip
    add(
        "--at", type=_steps, default=(), metavar="20k,50k",
        help="env steps of the tables (default: the last that all runs of a task reached)",
    )  # fmt: skip
    add(
        "--published", type=Path, metavar="FILE",
        help="CSV file of curves to overlay: method, task, modality, env_step, mean",
    )  # fmt: skip
    add(
        "--published-methods", type=_names, default=(), metavar="A,B",
        help="only these methods of the file, in this order; patterns like 'TD-MPC*' work",
    )  # fmt: skip
    add("--drop-short", action="store_true", help="leave out seeds that are not at their end")
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _steps(text: str) -> tuple[int, ...]:
    units = {"k": 1_000, "M": 1_000_000}
    try:
        steps = [int(float(s.rstrip("kM")) * units.get(s[-1:], 1)) for s in text.split(",")]
        if min(steps) <= 0:
            raise ValueError
        return tuple(dict.fromkeys(steps))
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"expected env steps like 20k,50k, got '{text}'") from None


if __name__ == "__main__":
    quietly_interruptible(main)
