"""The dispatch loop in Cython, over the C core of `csrc/`: rings, futures, calls and the scheduler."""
