"""Draw learning curves, their aggregate over tasks, and performance profiles.

python src/plot.py logs
python src/plot.py logs/cartpole-swingup --metric iqm --out results/figures
python src/plot.py 'logs/*/state/*/default' --published returns.csv
"""

import argparse
import sys
from pathlib import Path

from difftori import cli
from difftori.report.runs import RunFolderError, find_run_folders


def main() -> None:
    arguments = _parser().parse_args()
    if arguments.published_methods and arguments.published is None:
        cli.fail("--published-methods needs --published FILE")
    try:
        folders = find_run_folders(arguments.runs)
    except RunFolderError as error:
        cli.fail(str(error))
    try:
        # matplotlib and scipy are loaded after --help and typos
        from difftori.report.figures import Request, make
        from difftori.report.published import PublishedError
    except ModuleNotFoundError as error:
        cli.fail(f"pictures need {error.name}: pip install -r requirements.txt")
    print(f"{len(folders)} run{'' if len(folders) == 1 else 's'}")
    try:
        make(
            Request(
                folders=folders,
                out=arguments.out,
                metric=arguments.metric,
                published=arguments.published,
                published_methods=arguments.published_methods,
                until=arguments.until,
                expected_seeds=arguments.expect_seeds,
                drop_short=arguments.drop_short,
                free_y=arguments.free_y,
            )
        )
    except (RunFolderError, PublishedError) as error:
        cli.fail(str(error))
    except OSError as error:
        cli.fail(f"{error.filename or arguments.out} cannot be written: {error.strerror}")


def _parser() -> argparse.ArgumentParser:
    parser = cli.Parser(
        prog="python src/plot.py",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Runs are grouped by task, modality, mode and exp_name. Runs that are going on are "
        "read as they are:\nfrom where a seed has no value yet, a curve is dotted and has no "
        "interval.",
    )
    parser.add_argument("runs", nargs="+", help="run folders, folders above them, or globs")
    parser.add_argument(
        "--metric", choices=("mean", "iqm"), default="mean", help="over seeds (default: mean)"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("results/figures"),
        metavar="FOLDER",
        help="where pictures and tables go (default: results/figures)",
    )
    parser.add_argument(
        "--published",
        type=Path,
        metavar="FILE",
        help="CSV file of curves to overlay: method, task, modality, env_step, mean and, where "
        "they are known, std, n_seeds, source",
    )
    parser.add_argument(
        "--published-methods",
        type=_names,
        default=(),
        metavar="A,B",
        help="only these methods of the file, in this order; patterns like 'TD-MPC*' work",
    )
    parser.add_argument(
        "--until", type=_steps, metavar="STEPS", help="env step at which the axes end: 500000, 500k"
    )
    parser.add_argument(
        "--expect-seeds",
        type=_seeds,
        metavar="1-5",
        help="seeds that each curve should have (default: all that its method has on any task)",
    )
    parser.add_argument(
        "--drop-short", action="store_true", help="leave out seeds that are not at their end"
    )
    parser.add_argument(
        "--free-y", action="store_true", help="let each task's axis end at its own largest value"
    )
    return parser


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _steps(text: str) -> int:
    unit = {"k": 1e3, "M": 1e6}.get(text[-1:], 1)
    try:
        steps = int(float(text.rstrip("kM")) * unit)
    except ValueError:
        steps = 0
    if steps <= 0:
        raise argparse.ArgumentTypeError(f"expected a number of env steps like 500k, got '{text}'")
    return steps


def _seeds(text: str) -> tuple[int, ...]:
    seeds: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            seeds |= set(range(int(first), int(last or first) + 1))
    except ValueError:
        seeds = set()
    if not seeds:
        raise argparse.ArgumentTypeError(f"expected seeds like 1-5 or 1,2,7, got '{text}'")
    return tuple(sorted(seeds))


if __name__ == "__main__":
    cli.quietly_interruptible(main)
    sys.exit(0)
