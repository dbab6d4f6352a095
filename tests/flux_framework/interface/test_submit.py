from executor.test_submit import *  # noqa: F403  the same tests, with this folder's fixtures

# These are about workers of this machine.
del test_info_says_what_the_executor_was_made_with  # noqa: F821
del test_executors_of_local_workers_open_no_network_port  # noqa: F821
del test_info_names_the_workers  # noqa: F821

# On other hosts what a call prints goes through flux, which takes minutes for this many lines; see `test_flux`.
del test_a_call_that_prints_more_than_a_pipe_holds_is_not_stopped_by_it  # noqa: F821
