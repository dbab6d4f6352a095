from executor.test_resize import *  # noqa: F403  the same tests, with this folder's fixtures

# They look after, or kill, workers by their process ids, which are others' on another host.
del test_shrinking_ends_idle_workers_and_lets_calls_run_to_their_end  # noqa: F821
del test_a_worker_that_dies_is_replaced_only_as_long_as_it_is_wanted  # noqa: F821

# SLURM gives out devices, and knows only then that there are too few.
del test_more_workers_than_gpus_are_an_error  # noqa: F821
