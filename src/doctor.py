"""Look at this machine before a run: what is missing, and how long the run would take here.

    python src/doctor.py task=walker-walk modality=pixels mode=back_plan

Takes the words of train.py. Each line is ok, a note (the run works without), or what to fix; the
exit code is 1 if something has to be fixed.
"""

import os
import sys

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__.strip())
        sys.exit(0)
    from difftori.doctor import examine

    try:
        sys.exit(examine(sys.argv[1:]))
    except BrokenPipeError:  # a reader that has read enough, as head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
