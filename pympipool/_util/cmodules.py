"""The C modules behind `pickle`, `signal` and `socket`, for a faster start of workers.

The three standard modules wrap a C module in more Python: a second pickler, enumerations of constants, sockets as
files. No worker uses these wrappers, and each would pay for them at its start: importing the three modules takes as
long as starting Python, importing only their C modules takes a third of that.

For the same reason the modules that every worker imports define `TYPE_CHECKING = False` themselves; type checkers
treat it as true. Importing it from typing would take as long as importing all of these modules.
"""

import _pickle as pickle
import _signal as signal  # type: ignore[import-not-found]  # typeshed has no stub of it
import _socket as socket

__all__ = ["pickle", "signal", "socket"]
