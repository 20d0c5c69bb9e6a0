"""Where every run below a folder stands.

python src/status.py logs
python src/status.py logs/cup-catch --json
"""

import json
import sys
from pathlib import Path

from difftori import cli


def main() -> int:
    parser = cli.Parser(
        description="A table of all runs below a folder: done, running, waiting, stopped or failed "
        "and why, how far, the last return, and the time left. It may be asked at any time."
    )
    parser.add_argument("folder", nargs="?", default="logs", type=Path, help="default: logs")
    parser.add_argument("--json", action="store_true", help="a list with an object for each run")
    options = parser.parse_args()

    from difftori.report.run_state import find_begun_or_queued, listed_slurm_jobs, read_state
    from difftori.report.run_table import show

    if not options.folder.exists():
        cli.fail(f"{options.folder} does not exist; a study makes it within its first seconds")
    if not options.folder.is_dir():
        cli.fail(f"{options.folder} is not a folder")
    folders = find_begun_or_queued(options.folder)
    if not folders:
        cli.fail(f"there are no runs in {options.folder}")
    jobs = listed_slurm_jobs()
    runs = [read_state(folder, jobs) for folder in folders]
    if options.json:
        print(json.dumps([run.as_json() for run in runs], indent=1, allow_nan=False))
    else:
        show(runs)
    return 0


if __name__ == "__main__":
    cli.quietly_interruptible(lambda: sys.exit(main()))
