"""Maximizing a function of flat plans over a box, by Theseus: nothing here knows a model."""

import warnings

# CHOLMOD is a sparse solver that nothing here uses; Theseus warns that it is missing.
warnings.filterwarnings("ignore", message=".*[Cc]holmod.*|.*CHOLMOD.*")
