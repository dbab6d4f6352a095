"""Runs a worker: `python -m pympipool.worker`, in the environment that a spawner makes."""

from pympipool.worker import main

main()
