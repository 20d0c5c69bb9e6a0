"""The planners: sampling (MPPI) and differentiable trajectory optimization."""

import warnings

# CHOLMOD is a sparse solver that nothing here uses; Theseus warns that it is missing.
warnings.filterwarnings("ignore", message=".*[Cc]holmod.*|.*CHOLMOD.*")
