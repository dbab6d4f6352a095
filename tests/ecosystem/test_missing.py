"""Error messages if a third-party package is not installed."""

from __future__ import annotations

import subprocess
import sys


def test_missing_joblib_error_names_the_extra():
    source = "import sys; sys.modules['joblib'] = None; import pympipool.joblib"
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, timeout=50, check=False)
    assert "pip install joblib" in done.stderr.splitlines()[-1]
