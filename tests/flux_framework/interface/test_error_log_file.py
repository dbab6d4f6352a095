from executor.test_error_log_file import *  # noqa: F403  the same tests, with this folder's fixtures

# These are about workers of this machine.
del test_each_call_can_have_a_file_of_its_own  # noqa: F821
del test_a_file_that_cannot_be_is_an_error_at_once  # noqa: F821
del test_what_is_no_path_is_an_error_at_once  # noqa: F821
