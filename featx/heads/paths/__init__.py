"""Whole regularisation paths: every value of one parameter on one fold, at about the cost of one fit.

Each solver gives, fold by fold and value by value, what the scikit-learn classifier of the head would
answer on the validation rows. They serve the search only: the chosen head is a fitted scikit-learn
object.
"""

from __future__ import annotations

from featx.heads.paths.fold import FoldRows, PathSolver
from featx.heads.paths.kernels import solve_kernel_path
from featx.heads.paths.linear import fit_hinge, fit_logistic, solve_hinge_path, solve_logistic_path
from featx.heads.paths.neighbours import solve_neighbours_path
from featx.heads.paths.plain import solve_plainly
from featx.heads.paths.ridge import solve_ridge_path

__all__ = [
    "FoldRows",
    "PathSolver",
    "fit_hinge",
    "fit_logistic",
    "solve_hinge_path",
    "solve_kernel_path",
    "solve_logistic_path",
    "solve_neighbours_path",
    "solve_plainly",
    "solve_ridge_path",
]
