from executor.test_submit import *  # noqa: F403  the same tests, with this folder's fixtures

# These are about workers of this machine.
del test_info_says_what_the_executor_was_made_with  # noqa: F821
del test_executors_of_local_workers_open_no_network_port  # noqa: F821
del test_info_names_the_workers  # noqa: F821
