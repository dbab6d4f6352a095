"""The parts of standard modules that a worker needs, without the rest.

`pickle`, `signal` and `socket` are modules in C with more Python around them: a second pickler, enumerations of
constants, sockets as files. No worker uses that, and each would pay for it at its start: importing the three takes as long
as starting Python, importing what is here a third of it.

Likewise the modules that every worker imports set `TYPE_CHECKING = False` by themselves, which type checkers take for
true: importing it from typing would take as long as importing all of them.
"""

import _pickle as pickle
import _signal as signal  # type: ignore[import-not-found]  # typeshed has no stub of it
import _socket as socket

__all__ = ["pickle", "signal", "socket"]
