"""Everything works where memory cannot be shared in the usual ways, and where processes must not fork."""

import os
import platform
import shutil
import sys

import pytest

from pympipool import Executor
from pympipool.errors import WorkerDied
from support.processes import is_alive, new_mark
from support.scripts import run_program, script_environment
from support.waiting import wait_until

NO_MEMFD = """
import ctypes, errno, struct
libc = ctypes.CDLL(None, use_errno=True)
def instruction(code, yes, no, k):
    return struct.pack("HBBI", code, yes, no, k)
# A filter for system calls: memfd_create and getrandom are not there, as before Linux 3.17; everything else is allowed
# (linux/bpf_common.h, seccomp.h).
program = b"".join([
    instruction(0x20, 0, 0, 0),                          # load the number of the system call
    instruction(0x15, 1, 0, MEMFD_CREATE),               # is it memfd_create?
    instruction(0x15, 0, 1, MEMFD_CREATE - 1),           # or getrandom?
    instruction(0x06, 0, 0, 0x00050000 | errno.ENOSYS),  # then it fails
    instruction(0x06, 0, 0, 0x7FFF0000),                 # else it is done
])
buffer = ctypes.create_string_buffer(program)
filters = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(buffer)))
assert libc.prctl(38, 1, 0, 0, 0) == 0         # PR_SET_NO_NEW_PRIVS
assert libc.prctl(22, 2, filters, 0, 0) == 0   # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
for missing in (MEMFD_CREATE, MEMFD_CREATE - 1):
    assert libc.syscall(missing, b"x", 0, 0) == -1 and ctypes.get_errno() == errno.ENOSYS
"""

SHARED_MEMORY = """
import os, sys
from pympipool import Executor
def behind(array):
    return len(array), os.getpid()
with Executor(max_workers=2, block_allocation=True) as exe:
    size, worker = exe.submit(behind, bytes(10_000_000)).result()
    assert size == 10_000_000
    maps = open("/proc/self/maps").read()
    names = {"memfd": "memfd:pympipool", "posix": "/dev/shm/pmp-", "file": "/temporary/pympipool-"}
    print(*[kind for kind, name in names.items() if name in maps])
print(os.listdir(os.environ["TMPDIR"]))
"""

MEMFD_CREATE = {"x86_64": 319, "aarch64": 279}.get(platform.machine())


@pytest.mark.skipif(
    sys.platform != "linux" or MEMFD_CREATE is None, reason="knows Linux's system calls on x86-64 and ARM64"
)
@pytest.mark.parametrize("shm", ["posix", "file"])
def test_memory_is_shared_without_memfd(tmp_path, shm):
    folder = tmp_path / "temporary"
    folder.mkdir()
    script = tmp_path / "script.py"
    script.write_text(NO_MEMFD.replace("MEMFD_CREATE", str(MEMFD_CREATE)) + SHARED_MEMORY)
    launcher = []
    if shm == "file":
        if os.geteuid() != 0 or shutil.which("unshare") is None:
            pytest.skip("taking /dev/shm away takes root and unshare: run the tests as root")
        launcher = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o ro,size=4k none /dev/shm && exec "$0" "$@"']
    environment = script_environment(new_mark(), TMPDIR=str(folder))
    done = run_program([*launcher, sys.executable, str(script)], timeout_s=50, env=environment)
    if "Operation not permitted" in done.stderr:
        pytest.skip("no mount namespaces here: run the tests with CAP_SYS_ADMIN")
    assert done.stdout.split("\n")[:2] == [shm, "[]"], done.stderr


def parent():
    return os.getppid()


def test_without_fork_each_call_gets_fresh_interpreter(monkeypatch):
    monkeypatch.setenv("PYMPIPOOL_START_METHOD", "spawn")
    with Executor(max_cores=2) as exe:
        assert [call.result() for call in [exe.submit(parent) for _ in range(4)]] == [os.getpid()] * 4


def test_forkserver_is_used_where_fork_is_safe(monkeypatch):
    monkeypatch.setenv("PYMPIPOOL_START_METHOD", "fork")
    with Executor(max_cores=2) as exe:
        assert exe.submit(parent).result() != os.getpid()


def leave_child_and_exit(pids):
    import subprocess

    assert not hasattr(os, "waitid")
    pids.write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    os._exit(7)


def test_forkserver_reaps_workers_without_waitid(monkeypatch, tmp_path):
    """As on macOS before Python 3.13."""
    (tmp_path / "sitecustomize.py").write_text("import os\ndel os.waitid\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("PYMPIPOOL_START_METHOD", "fork")
    pids = tmp_path / "pids"
    with Executor(max_cores=1) as exe:
        with pytest.raises(WorkerDied, match="exit code 7"):
            exe.submit(leave_child_and_exit, pids).result()
        assert exe.submit(parent).result() != os.getpid()
    wait_until(lambda: not is_alive(int(pids.read_text())))


def test_unknown_start_method_raises_clear_error(monkeypatch):
    monkeypatch.setenv("PYMPIPOOL_START_METHOD", "forkserver")
    with pytest.raises(ValueError, match=r"PYMPIPOOL_START_METHOD is 'forkserver'; it can be 'fork' or 'spawn'"):
        Executor(max_cores=2)
