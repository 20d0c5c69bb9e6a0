"""Look at this machine before a run: what is missing, and how long the run would take here.

    python src/doctor.py task=walker-walk modality=pixels mode=back_plan

Takes the words of train.py. Each line is ok, a note (the run works without), or what to fix; the
exit code is 1 if something has to be fixed.
"""

import sys

from difftori.doctor import examine
from difftori.process import quietly_interruptible

if __name__ == "__main__":
    if {"-h", "--help"} & set(sys.argv[1:]):
        print(__doc__.strip())
        sys.exit(0)
    quietly_interruptible(lambda: sys.exit(examine(sys.argv[1:])))
