from executor.test_shutdown import *  # noqa: F403  the same tests, with this folder's fixtures

# These look at workers as processes of this machine; what is left in flux is seen after each module (see `conftest`).
del test_no_worker_is_left_after_shutdown  # noqa: F821
del test_workers_end_by_themselves_after_a_shutdown_that_does_not_wait  # noqa: F821
