from executor.test_scheduling import *  # noqa: F403  the same tests, with this folder's fixtures
