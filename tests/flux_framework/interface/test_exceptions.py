from executor.test_exceptions import *  # noqa: F403  the same tests, with this folder's fixtures
