"""Where these packages are not installed."""

from __future__ import annotations

import subprocess
import sys


def test_joblib_that_is_missing_is_an_error_that_says_how_to_get_it():
    source = "import sys; sys.modules['joblib'] = None; import pympipool.joblib"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=50, check=False)
    assert 'pip install "pympipool[joblib]"' in done.stderr.splitlines()[-1]
