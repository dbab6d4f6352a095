"""Functions that the packages call on the workers."""

from __future__ import annotations

import os
import time


def square(x):
    return x * x


def square_and_pid(x):
    return x * x, os.getpid()


def fail_at(x, wrong):
    if x == wrong:
        raise ArithmeticError(f"no result for {x}")
    return x


def resonance(x):
    return x + 0.01 / (0.01 + x * x)


def minus_half_square(x):
    return -0.5 * float((x * x).sum())


def sleep_and_pid(seconds):
    time.sleep(seconds)
    return os.getpid()
