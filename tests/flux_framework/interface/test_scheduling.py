from executor.test_scheduling import *  # noqa: F403  the same tests, with this folder's fixtures

# It stops a worker as a process of this machine. What was sent to a worker over a network stays there as long as that is stopped.
del test_a_call_behind_one_that_holds_runs_on_a_worker_that_comes_back  # noqa: F821
