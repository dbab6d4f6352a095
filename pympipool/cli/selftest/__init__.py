"""Try out a backend step by step: what works, what does not, and what to do.

    supervisor.py  ──starts, with a timeout─────>  __main__.py: one script for each step, like a user's script
                   <──── reports, as JSON ───────      steps.py: what is tried, with worker/probes.py on the workers
                   finds processes that are left behind, and ends them

Each step runs in a process of its own, so that a hang or crash affects only that step.
"""

from __future__ import annotations

from pympipool.cli.selftest.steps import STEPS, Outcome, Step
from pympipool.cli.selftest.supervisor import Verdict, try_step

__all__ = ["STEPS", "Outcome", "Step", "Verdict", "try_step"]
