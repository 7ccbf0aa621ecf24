"""Numbers that are true: splits, metrics, intervals, paired comparisons, and an audit before the fit.

:func:`featx.evaluation.audit.audit` is not repeated here, where its name is that of its module.
"""

from __future__ import annotations

from featx.evaluation.audit import Audit
from featx.evaluation.comparison import compare, holm, mcnemar
from featx.evaluation.intervals import interval_caution, wilson
from featx.evaluation.metrics import Evaluation, assess, confusion, evaluate, per_class
from featx.evaluation.resampling import bootstrap
from featx.evaluation.splits import Split, group_codes, make_split

__all__ = [
    "Audit",
    "Evaluation",
    "Split",
    "assess",
    "bootstrap",
    "compare",
    "confusion",
    "evaluate",
    "group_codes",
    "holm",
    "interval_caution",
    "make_split",
    "mcnemar",
    "per_class",
    "wilson",
]
