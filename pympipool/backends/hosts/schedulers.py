"""The schedulers whose jobs are recognized by their environment, by the names of their backends."""

from __future__ import annotations

from pympipool.backends.hosts.grid_engine import GRID_ENGINE
from pympipool.backends.hosts.lsf import LSF
from pympipool.backends.hosts.pbs import PBS

SCHEDULERS = {scheduler.backend: scheduler for scheduler in (PBS, LSF, GRID_ENGINE)}
