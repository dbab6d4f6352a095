"""Fuzzes what strangers can reach for as long as one likes: python -m tests.transport.fuzz --seconds N

Runs `test_fuzz_control.py` again and again, each round with other random inputs, and says how many there were.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

STRANGERS = Path(__file__).with_name("test_fuzz_control.py")
EXAMPLES = 5000
"""Of each test in a round: the memory of what was tried grows with them."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.transport.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    until_s = time.monotonic() + parser.parse_args().seconds
    command = [sys.executable, "-m", "pytest", "-q", "--timeout=0", "--noconftest", "-p", "no:cacheprovider"]
    command += ["-o", "faulthandler_timeout=0"]
    environment = {**os.environ, "FUZZ_EXAMPLES": str(EXAMPLES)}
    tests = STRANGERS.read_text().count("\n@given(")
    inputs = 0
    while time.monotonic() < until_s:
        code = subprocess.run(
            [*command, str(STRANGERS)], check=False, env=environment, stdin=subprocess.DEVNULL
        ).returncode
        if code != 0:
            return code
        inputs += tests * EXAMPLES
    print(f"{inputs} inputs, none got in")
    return 0


if __name__ == "__main__":
    sys.exit(main())
