"""Job objects of Windows: a group of processes that is killed as one, at the latest when this process ends.

See "Job Objects" in the documentation of the Windows API. A process that a member starts is a member too. When this process ends,
in whatever way, the system closes the last handle of the job, and ends all members (JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE).
"""

from __future__ import annotations

import _winapi
import ctypes
import sys
from ctypes import wintypes

assert sys.platform == "win32"

_EXTENDED_LIMIT_INFORMATION = 9
_KILL_ON_JOB_CLOSE = 0x2000


class _BasicLimits(ctypes.Structure):
    """JOBOBJECT_BASIC_LIMIT_INFORMATION."""

    _fields_ = (
        ("PerProcessUserTimeLimit", wintypes.LARGE_INTEGER),
        ("PerJobUserTimeLimit", wintypes.LARGE_INTEGER),
        ("LimitFlags", wintypes.DWORD),
        ("MinimumWorkingSetSize", ctypes.c_size_t),
        ("MaximumWorkingSetSize", ctypes.c_size_t),
        ("ActiveProcessLimit", wintypes.DWORD),
        ("Affinity", ctypes.c_size_t),
        ("PriorityClass", wintypes.DWORD),
        ("SchedulingClass", wintypes.DWORD),
    )


class _ExtendedLimits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = (
        ("BasicLimitInformation", _BasicLimits),
        ("IoInfo", ctypes.c_uint64 * 6),
        ("ProcessMemoryLimit", ctypes.c_size_t),
        ("JobMemoryLimit", ctypes.c_size_t),
        ("PeakProcessMemoryUsed", ctypes.c_size_t),
        ("PeakJobMemoryUsed", ctypes.c_size_t),
    )


_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_kernel32.CreateJobObjectW.restype = wintypes.HANDLE
_kernel32.CreateJobObjectW.argtypes = wintypes.LPVOID, wintypes.LPCWSTR
_kernel32.SetInformationJobObject.argtypes = wintypes.HANDLE, ctypes.c_int, wintypes.LPVOID, wintypes.DWORD
_kernel32.AssignProcessToJobObject.argtypes = wintypes.HANDLE, wintypes.HANDLE
_kernel32.TerminateJobObject.argtypes = wintypes.HANDLE, wintypes.UINT


class Job:
    """A job without members.

    Raises:
        OSError: The system has no room for it.
    """

    def __init__(self) -> None:
        self._handle: int | None = _kernel32.CreateJobObjectW(None, None)
        if not self._handle:
            raise _last_error()
        limits = _ExtendedLimits()
        limits.BasicLimitInformation.LimitFlags = _KILL_ON_JOB_CLOSE
        if not _kernel32.SetInformationJobObject(
            self._handle, _EXTENDED_LIMIT_INFORMATION, ctypes.byref(limits), ctypes.sizeof(limits)
        ):
            error = _last_error()
            self.close()
            raise error

    def add(self, process: int) -> None:
        """Make a process a member, by its handle.

        Raises:
            OSError: That is not possible: it has ended, for example.
        """
        if not _kernel32.AssignProcessToJobObject(self._handle, process):
            raise _last_error()

    def kill(self, exit_code: int) -> None:
        """End all members. Does nothing after `close`."""
        if self._handle is not None:
            _kernel32.TerminateJobObject(self._handle, exit_code)

    def close(self) -> None:
        """End all members, and release the job."""
        handle, self._handle = self._handle, None
        if handle is not None:
            _winapi.CloseHandle(handle)


def _last_error() -> OSError:
    return ctypes.WinError(ctypes.get_last_error())
