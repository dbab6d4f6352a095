"""Fuzz the control connection for a given time: python -m tests.transport.fuzz --seconds N

Runs `test_fuzz_control.py` repeatedly, each round with other random inputs, and prints the number of inputs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).with_name("test_fuzz_control.py")
EXAMPLES = 5000
"""Inputs of each test in a round. The memory that hypothesis needs for past inputs grows with this number."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.transport.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    until_s = time.monotonic() + parser.parse_args().seconds
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=0", "--noconftest", "-p", "no:cacheprovider"]
    command += ["-o", "faulthandler_timeout=0"]
    environment = {**os.environ, "FUZZ_EXAMPLES": str(EXAMPLES)}
    tests = TESTS.read_text().count("\n@given(")
    inputs = 0
    while time.monotonic() < until_s:
        code = subprocess.run([*command, str(TESTS)], check=False, env=environment, stdin=subprocess.DEVNULL).returncode
        if code != 0:
            return code
        inputs += tests * EXAMPLES
    print(f"{inputs} inputs, none accepted")
    return 0


if __name__ == "__main__":
    sys.exit(main())
