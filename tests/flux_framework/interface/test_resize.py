from executor.test_resize import *  # noqa: F403  the same tests, with this folder's fixtures

# These are about workers of this machine; `test_resize` beside this folder has jobs.
del test_without_block_allocation_more_calls_run_at_the_same_time  # noqa: F821
del test_without_block_allocation_less_calls_run_at_the_same_time  # noqa: F821
del test_less_cores_than_a_waiting_call_needs_are_an_error  # noqa: F821
del test_more_workers_than_gpus_are_an_error  # noqa: F821
