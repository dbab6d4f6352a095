from executor.test_functions_travel import *  # noqa: F403  the same tests, with this folder's fixtures
