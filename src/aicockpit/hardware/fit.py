"""Does a model fit these GPUs, in which layout, with how many tokens of KV cache? Values in, verdicts with every term
of the sum out. Called by `recipes.select`, `aicockpit fit` and the metric that compares it with what an engine reports.
"""

from __future__ import annotations

from aicockpit.hardware.fit_advice import advice
from aicockpit.hardware.fit_best import best
from aicockpit.hardware.fit_cpu import cache as cpu_cache
from aicockpit.hardware.fit_cpu import cpu, error
from aicockpit.hardware.fit_cpu import refused as cpu_refused
from aicockpit.hardware.fit_judge import SHORTEST, WORKING, judge
from aicockpit.hardware.fit_layout import layouts, refusal
from aicockpit.hardware.fit_terms import defaults
from aicockpit.hardware.fit_types import KV_DTYPES, UTILISATION, Ask, Best, Layout, Term, Verdict, gib

__all__ = [
    "KV_DTYPES",
    "SHORTEST",
    "UTILISATION",
    "WORKING",
    "Ask",
    "Best",
    "Layout",
    "Term",
    "Verdict",
    "advice",
    "best",
    "cpu",
    "cpu_cache",
    "cpu_refused",
    "defaults",
    "error",
    "gib",
    "judge",
    "layouts",
    "refusal",
]
