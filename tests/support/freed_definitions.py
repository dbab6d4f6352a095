"""Where functions and classes are freed with their last reference."""

from __future__ import annotations

import sys
import sysconfig

import pytest

frees_definitions = pytest.mark.skipif(
    bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and sys.version_info < (3, 14),
    reason="Python 3.13t never frees functions and classes once a thread has started: use 3.14t",
)
