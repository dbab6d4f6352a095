import executor.test_submit
from executor.test_submit import *  # noqa: F403  the same tests, with this folder's fixtures

# These hold on this machine only.
for name in ("test_info_says_what_the_executor_was_made_with", "test_executors_of_local_workers_open_no_network_port"):
    assert hasattr(executor.test_submit, name)
    del globals()[name]
