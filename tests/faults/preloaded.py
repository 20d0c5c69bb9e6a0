"""Everything that a run imports, the late imports of its libraries included.

No thread starts but those of OpenBLAS, which ends them itself before a fork.
"""

import torch

torch.set_num_threads(1)

import pytest  # noqa: E402, F401
import torch._dynamo  # noqa: E402, the optimizers import it at their first step
import wandb  # noqa: E402, F401

import difftori.solvers.theseus_lm  # noqa: E402, F401
import runs  # noqa: E402, F401
from difftori.envs.rendering import importing_mujoco  # noqa: E402

with importing_mujoco():
    import dm_control.suite  # noqa: F401
