"""The description of the machine and the versions of the peers, for the head of a report."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path

from benchmarks.limits import ROOT
from benchmarks.peers import PEERS


def processor() -> str:
    with open("/proc/cpuinfo") if Path("/proc/cpuinfo").exists() else open(os.devnull) as lines:
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def memory_gb() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9


def commit() -> str:
    """Return the commit that is measured, marked "-dirty" if files differ from it; "unknown" outside of a clone."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def description() -> dict[str, str]:
    """Return the facts that are the same for all cases of a run."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {f"{peer.package} {peer.version}" for peer in PEERS if peer.package and peer.version}
    return {
        "machine": f"{processor()}, {cores} cores, {memory_gb():.0f} GB",
        "system": f"{platform.system()} {platform.release()}, {' '.join(platform.libc_ver())}",
        "Python": f"{platform.python_version()} ({platform.python_compiler()})",
        "priority": f"nice {os.getpriority(os.PRIO_PROCESS, 0)}",
        "commit": commit(),
        "versions": ", ".join(sorted(versions)),
    }
