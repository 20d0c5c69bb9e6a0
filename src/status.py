"""Where every run below a folder stands.

python src/status.py logs
python src/status.py logs/cup-catch --json
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

from difftori.process import Parser, fail, quietly_interruptible


def main() -> int:
    parser = Parser(
        description="A table of all runs below a folder: done, running, waiting, stopped or failed "
        "and why, how far, the last return, and the time left. It may be asked at any time."
    )
    parser.add_argument("folder", nargs="?", default="logs", type=Path, help="default: logs")
    parser.add_argument("--json", action="store_true", help="a list with an object for each run")
    options = parser.parse_args()

    from difftori.report.folders import has_record, walk_runs
    from difftori.report.run_state import listed_slurm_jobs, read_state
    from difftori.report.run_table import show

    # an archived run has its curve and settings, and nothing of how it ended
    folders = [run for run in walk_runs(options.folder) if has_record(run)]
    if not folders:
        fail(f"there are no runs in {options.folder}")
    jobs = listed_slurm_jobs()
    runs = [read_state(folder, jobs) for folder in folders]
    if options.json:
        print(json.dumps([asdict(run) for run in runs], indent=1, default=str))
    else:
        show(runs, options.folder)
    return 0


if __name__ == "__main__":
    quietly_interruptible(lambda: sys.exit(main()))
