"""What Windows tells of a cache directory: who can write into it, and its file system. `directory_unix.py` has the same names.

A file has an owner, who may always change its permissions, and a list of who may do what: its DACL. Both are checked:

    the owner        is this account, or the system or its administrators, whom nothing on the machine is safe from
    what may write   is only of these; what the entries say that files inside inherit counts, too

A folder that pympipool makes has such permissions wherever it is: Python gives them to folders of mode 0o700. See "Access Control
Lists" in the documentation of the Windows API.
"""

from __future__ import annotations

import ctypes
import os
import stat
import sys
from collections.abc import Iterator
from ctypes import byref, wintypes

assert sys.platform == "win32"

__all__ = ["check_owner", "file_system"]

_FILE_OBJECT = 1
_OWNER_AND_DACL = 1 | 4
_TOKEN_QUERY = 8
_TOKEN_USER = 1
_ACL_SIZE = 2
_DRIVE_REMOTE = 4

_LINKS = (stat.IO_REPARSE_TAG_SYMLINK, stat.IO_REPARSE_TAG_MOUNT_POINT)

_WRITING = 0x2 | 0x4 | 0x10 | 0x40 | 0x10000 | 0x40000 | 0x80000 | 0x10000000 | 0x40000000
"""Rights that change what is in a file or folder, or who may: FILE_WRITE_DATA, FILE_APPEND_DATA (or to add files and folders),
FILE_WRITE_EA, FILE_DELETE_CHILD, DELETE, WRITE_DAC, WRITE_OWNER, GENERIC_ALL, GENERIC_WRITE."""

_DENYING = (1, 6, 10, 12)
"""Types of entries that forbid something."""

_ALLOWING = (0, 9)
"""Types of entries that allow something to the account that is named after the rights."""

_OWNERS = {"S-1-5-18": "the system", "S-1-5-32-544": "the administrators"}

_STAND_INS = {"S-1-3-0", "S-1-3-4"}
"""Names for the owner of what is made in a folder, and of the file itself."""


class _Ace(ctypes.Structure):
    """The begin of ACCESS_ALLOWED_ACE. The SID is in the place of `sid`."""

    _fields_ = (
        ("type", ctypes.c_ubyte),
        ("flags", ctypes.c_ubyte),
        ("size", ctypes.c_ushort),
        ("rights", wintypes.DWORD),
        ("sid", wintypes.DWORD),
    )


_advapi32 = ctypes.WinDLL("advapi32", use_last_error=True)
_kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
_pointer_to_pointer = ctypes.POINTER(ctypes.c_void_p)
_advapi32.GetNamedSecurityInfoW.argtypes = (
    wintypes.LPCWSTR, ctypes.c_int, wintypes.DWORD, _pointer_to_pointer, ctypes.c_void_p, _pointer_to_pointer, ctypes.c_void_p,
    _pointer_to_pointer,
)  # fmt: skip
_advapi32.GetAclInformation.argtypes = ctypes.c_void_p, ctypes.c_void_p, wintypes.DWORD, ctypes.c_int
_advapi32.GetAce.argtypes = ctypes.c_void_p, wintypes.DWORD, ctypes.POINTER(ctypes.POINTER(_Ace))
_advapi32.ConvertSidToStringSidW.argtypes = ctypes.c_void_p, ctypes.POINTER(wintypes.LPWSTR)
_advapi32.OpenProcessToken.argtypes = wintypes.HANDLE, wintypes.DWORD, ctypes.POINTER(wintypes.HANDLE)
_advapi32.GetTokenInformation.argtypes = (
    wintypes.HANDLE, ctypes.c_int, ctypes.c_void_p, wintypes.DWORD, ctypes.POINTER(wintypes.DWORD),
)  # fmt: skip
_kernel32.GetCurrentProcess.restype = wintypes.HANDLE
_kernel32.CloseHandle.argtypes = (wintypes.HANDLE,)
_kernel32.LocalFree.argtypes = (ctypes.c_void_p,)


def check_owner(path: str, status: os.stat_result) -> None:
    """Check that only this user, and the administrators of the machine, can write into a file or folder.

    Args:
        status: That of the path, of a link itself.

    Raises:
        PermissionError: Another user owns it, or can write into it, or it is a link.
        OSError: The system does not tell: its file system has no permissions, for example.
    """
    danger = "reading a cached result can run any code that its writer has put there"
    if status.st_reparse_tag in _LINKS:
        raise PermissionError(f"{path!r} is a link, and {danger}: remove it")
    account = _own_account()
    owner, writers = _owner_and_writers(path)
    if owner not in {account, *_OWNERS}:
        raise PermissionError(f"{path!r} belongs to the user {owner}, and {danger}: use a cache_directory of your own")
    others = sorted(set(writers) - {account, *_OWNERS, *_STAND_INS})
    if others:
        raise PermissionError(
            f"other users can write to {path!r} ({', '.join(others)}), and {danger}: if none has written there, `icacls"
            f' "{path}" /inheritance:r /grant:r "%USERNAME%:(OI)(CI)F"` gives it to you alone; or use another cache_directory'
        )


def file_system(path: str) -> str:
    """Return "smb3" for a path that other hosts may have, too, else ""."""
    drive = os.path.splitdrive(path)[0]
    is_remote = drive.startswith("\\\\") and not drive.startswith("\\\\?\\")
    return "smb3" if is_remote or _kernel32.GetDriveTypeW(f"{drive}\\") == _DRIVE_REMOTE else ""


def _owner_and_writers(path: str) -> tuple[str, list[str]]:
    """Return the owner of a file, and who can write into it."""
    owner, acl, descriptor = ctypes.c_void_p(), ctypes.c_void_p(), ctypes.c_void_p()
    code = _advapi32.GetNamedSecurityInfoW(
        path, _FILE_OBJECT, _OWNER_AND_DACL, byref(owner), None, byref(acl), None, byref(descriptor)
    )
    if code:
        raise ctypes.WinError(code)
    try:
        return _name(owner), ["everyone: it has no permissions"] if acl.value is None else list(_writers(acl))
    finally:
        _kernel32.LocalFree(descriptor)


def _writers(acl: ctypes.c_void_p) -> Iterator[str]:
    information = (wintypes.DWORD * 3)()  # the number of entries, and sizes
    _check(_advapi32.GetAclInformation(acl, information, ctypes.sizeof(information), _ACL_SIZE))
    for index in range(information[0]):
        entry = ctypes.POINTER(_Ace)()
        _check(_advapi32.GetAce(acl, index, byref(entry)))
        ace = entry.contents
        if ace.type in _ALLOWING:
            if ace.rights & _WRITING:
                yield _name(ctypes.c_void_p(ctypes.addressof(ace) + _Ace.sid.offset))
        elif ace.type not in _DENYING:
            yield f"an entry of type {ace.type}"


def _own_account() -> str:
    """Return the account of this process."""
    token = wintypes.HANDLE()
    _check(_advapi32.OpenProcessToken(_kernel32.GetCurrentProcess(), _TOKEN_QUERY, byref(token)))
    try:
        size = wintypes.DWORD()
        _advapi32.GetTokenInformation(token, _TOKEN_USER, None, 0, byref(size))
        user = ctypes.create_string_buffer(size.value)
        _check(_advapi32.GetTokenInformation(token, _TOKEN_USER, user, size, byref(size)))
        return _name(ctypes.cast(user, _pointer_to_pointer).contents)
    finally:
        _kernel32.CloseHandle(token)


def _name(sid: ctypes.c_void_p) -> str:
    """Return the SID of an account as text."""
    text = wintypes.LPWSTR()
    _check(_advapi32.ConvertSidToStringSidW(sid, byref(text)))
    try:
        return str(text.value)
    finally:
        _kernel32.LocalFree(ctypes.cast(text, ctypes.c_void_p))


def _check(succeeded: int) -> None:
    if not succeeded:
        raise ctypes.WinError(ctypes.get_last_error())
