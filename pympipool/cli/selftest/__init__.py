"""Tries out a backend, step by step: what works, what does not, and what to do.

    supervisor.py  ──starts, with a time limit──>  __main__.py: a script, as a user's, for each step
                   <──── reports, as JSON ───────      steps.py: what is tried, with worker/probes.py on the workers
                   looks for processes that are left, and ends them

Each step is a process of its own, so that nothing that hangs or crashes in it takes more with it than that step.
"""

from __future__ import annotations

from pympipool.cli.selftest.steps import STEPS, Step
from pympipool.cli.selftest.supervisor import Outcome, Verdict, try_step

__all__ = ["STEPS", "Outcome", "Step", "Verdict", "try_step"]
