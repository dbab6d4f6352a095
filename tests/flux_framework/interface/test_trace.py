from diagnostics.tracing.test_trace import *  # noqa: F403  the same tests, with this folder's fixtures

# These are about workers of this machine.
del test_all_ranks_of_an_mpi_worker_have_their_times  # noqa: F821
del test_the_public_name_is_found  # noqa: F821
