"""The tests that run on Windows, and those among them that cannot, each with its reason.

`python tests/support/windows_selection.py` prints the arguments of pytest, one a line. The other modules of tests use what Windows
does not have: signals, forks, /proc, MPI, other hosts; or they would take too long under Wine.
"""

from __future__ import annotations

MODULES = (
    "tests/windows",
    "tests/caching/test_arrays.py",
    "tests/caching/test_known_keys.py",
    "tests/caching/test_read_ahead.py",
    "tests/caching/test_store.py",
    "tests/caching/test_values.py",
    "tests/cli/test_text.py",
    "tests/ecosystem/test_asyncio.py",
    "tests/executor/test_cancel.py",
    "tests/executor/test_drain.py",
    "tests/executor/test_map.py",
    "tests/executor/test_resize.py",
    "tests/executor/test_retries.py",
    "tests/executor/test_standard_library.py",
    "tests/executor/test_submit.py",
)

LESS = "not process_per_call and not ProcessPoolExecutor"
"""Tests with a process for each call are left out, except those in tests/windows: under Wine a worker takes a second to start.
So are those of the executor of the standard library."""

REASONS = {
    "Windows has no such signals: run it on another system": """
        tests/executor/test_drain.py::test_signal_handler_drains_while_the_script_waits
    """,
    "a port of the loopback interface is open on Windows: docs/security.md": """
        tests/executor/test_submit.py::test_executors_of_local_workers_open_no_network_port
    """,
    "files have other permissions on Windows: tests/windows/test_cache.py tries those": """
        tests/caching/test_store.py::test_a_directory_of_another_user_is_refused
        tests/caching/test_store.py::test_an_index_others_can_write_is_refused
        tests/caching/test_store.py::test_directories_others_can_write_are_refused
        tests/caching/test_store.py::test_files_are_for_the_user_only
    """,
    "to make links needs rights on Windows that few users have: run it on another system": """
        tests/caching/test_store.py::test_a_link_inside_is_refused
        tests/caching/test_store.py::test_links_to_own_directories_are_followed
    """,
    "no boot of Windows is known, so all files are checked in full, and none stays mapped for that: run it on Linux": """
        tests/caching/test_store.py::test_a_moderate_result_stays_mapped_until_read
        tests/caching/test_store.py::test_results_of_other_boots_are_checked_in_full
    """,
    "a file that is mapped stays until the next executor opens the directory: tests/windows/test_cache.py": """
        tests/caching/test_store.py::test_a_full_disk_ends_no_call
    """,
    "it looks into /proc: run it on Linux": """
        tests/ecosystem/test_asyncio.py::test_dropped_executor_ends_while_the_loop_runs
        tests/ecosystem/test_asyncio.py::test_executors_of_one_loop_leave_nothing
        tests/ecosystem/test_asyncio.py::test_many_loops_leave_no_descriptors
    """,
    "it is about functions of Unix: run it there": """
        tests/caching/test_store.py::test_files_are_read_in_pieces
        tests/caching/test_store.py::test_systems_are_asked_for_few_bytes
        tests/caching/test_store.py::test_the_file_system_of_a_path_is_found
    """,
}
"""Tests without their parameters, by the reason why they are left out."""


def reason_to_leave_out(nodeid: str) -> str | None:
    """Return why a test cannot run on Windows; None if it can."""
    name = nodeid.partition("[")[0]
    return next((reason for reason, names in REASONS.items() if name in names.split()), None)


if __name__ == "__main__":
    print(*MODULES, "-k", LESS, sep="\n")
