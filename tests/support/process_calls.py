"""Functions that change or describe the process of their call.

The module imports little, because a process per call imports it again for each call.
"""

import os
import signal
import sys
import threading
from pathlib import Path
from time import monotonic_ns

KEPT = {}
"""Objects that calls have left in this process."""


LOCK = threading.Lock()


def lock_is_free():
    return LOCK.acquire(timeout=60)


def leave_traces(folder):
    """Change every kind of state that a process keeps."""
    KEPT["trace"] = 1
    os.environ["TRACE"] = "1"
    os.chdir(folder)
    sys.path.append("/trace")
    sys.argv.append("trace")
    os.umask(0o077)
    os.nice(1)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    KEPT["open"] = open(Path(folder, "trace"), "w")
    return traces()


def traces():
    """Return the state that `leave_traces` changes."""
    umask = os.umask(0)
    os.umask(umask)
    return {
        "module": dict(KEPT),
        "environment": os.environ.get("TRACE"),
        "cwd": os.getcwd(),
        "path": "/trace" in sys.path,
        "arguments": "trace" in sys.argv,
        "umask": umask,
        "niceness": os.nice(0),
        "signals": signal.getsignal(signal.SIGUSR1),
        "threads": threading.active_count(),
        "files": sorted(name for name in open_files() if name.endswith("trace")),
    } | ({"module": True, "files": True} if KEPT else {})


def open_files(pid="self"):
    """Return the targets of the open descriptors of a process."""
    found = []
    for descriptor in os.listdir(f"/proc/{pid}/fd"):
        try:
            found.append(os.readlink(f"/proc/{pid}/fd/{descriptor}"))
        except FileNotFoundError:  # the descriptor of the list itself
            pass
    return found


def about_this_process():
    """Return what a call can see of its process."""
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "python threads": [thread.name for thread in threading.enumerate()],
        "modules": sorted(sys.modules),
        "files": open_files(),
    }


def variable(name):
    return os.environ.get(name)


def where():
    return os.getcwd()


def write_line(path, text):
    """Append a line in a single write, so that lines of several processes do not mix."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, f"{text}\n".encode())
    os.close(descriptor)
    return text


def work(log, name, cores=1, amount=3000):
    """Log begin and end of the call, with the number of its cores."""
    write_line(log, f"{monotonic_ns()} {cores} {name}")
    total = sum(range(amount))
    write_line(log, f"{monotonic_ns()} {-cores} {name}")
    return total


def work_together(log, name, cores):
    """Log begin and end of a call on all ranks of a worker."""
    from mpi4py import MPI

    world = MPI.COMM_WORLD
    world.Barrier()
    if world.Get_rank() == 0:
        work(log, name, cores)
    world.Barrier()
    return world.Get_size()


def end_self(how):
    if how == "exit":
        os._exit(3)
    os.kill(os.getpid(), signal.Signals[how])


def end_self_once(path):
    """Kill the process of the call, but only the first time."""
    if not os.path.exists(path):
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return os.getpid()


def say(text, also=""):
    print(text)
    if also:
        print(also, file=sys.stderr)
    return text


def say_and_die(text):
    print(text, file=sys.stderr)
    os._exit(1)


def start_a_program():
    """Leave a process behind that continues to run, and return its pid."""
    import subprocess

    return subprocess.Popen(["sleep", "1000"]).pid


def import_and_call(module, name):
    import importlib

    return getattr(importlib.import_module(module), name)()


def read_stdin():
    return sys.stdin.read()


def never_returns():
    threading.Event().wait()


def pid_after(_):
    return os.getpid()


# ---- threads and GPUs ----


def variables(names):
    return {name: os.environ[name] for name in names if name in os.environ}


def hold_and_see(gate, *names):
    """Wait at the gate, then return the values of the variables."""
    from support.calls import hold

    hold(gate)
    return variables(names)


def threads_of_numpy():
    """Return the number of threads of this process after numpy has multiplied matrices."""
    import numpy as np

    np.ones((500, 500)) @ np.ones((500, 500))
    return len(os.listdir("/proc/self/task")) - 1  # ours waits for the master's end


# ---- init_function ----


def preset():
    return {"j": 4, "k": 3, "l": 2}


def three(i, j, k):
    return i, j, k


def with_default(i, j=100):
    return i, j


def keyword_only(i, *, j):
    return i, j


def some_and_kwargs(i, j, **kwargs):
    return i, j, kwargs


class Threefold:
    """A class whose constructor and methods take i and j."""

    def __init__(self, i=2, j=0):
        self.values = (i, j)

    def times(self, i, j):
        return self.values[0] * i, j

    def __eq__(self, other):
        return self.values == other.values

    __hash__ = None


def counting_preset(log):
    """Return an init_function that logs the process in which it ran."""

    def init():
        write_line(log, os.getpid())
        return {"maker": os.getpid()}

    return init


def made_in(maker):
    assert maker == os.getpid()
    return maker


def count_up(data):
    data += 1
    return int(data[0])


def context_of_worker():
    return {"where": os.getcwd(), "threads": os.environ["OMP_NUM_THREADS"]}


def preset_of_rank():
    from mpi4py import MPI

    return {"rank": MPI.COMM_WORLD.Get_rank(), "size": MPI.COMM_WORLD.Get_size()}


def rank_and_preset(i, rank, size):
    return i, rank, size


def sum_over_ranks():
    from mpi4py import MPI

    return {"total": MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.Get_rank())}


def failing_preset(log):
    def init():
        write_line(log, os.getpid())
        raise KeyError("no data here")

    return init


def ending_preset(how):
    return lambda: end_self(how)


def failing_on_rank_1():
    from mpi4py import MPI

    if MPI.COMM_WORLD.Get_rank() == 1:
        raise ValueError("only on rank 1")
    return {}


def sum_of_ranks(offset):
    """Return the sum over all ranks of their number plus the offset."""
    from mpi4py import MPI

    return MPI.COMM_WORLD.allreduce(MPI.COMM_WORLD.Get_rank() + offset)


def world_of_one():
    """Initialize MPI in a worker of one process, and return its pid, which names MPICH's shared memory."""
    from mpi4py import MPI

    assert MPI.COMM_WORLD.size == 1
    return os.getpid()
