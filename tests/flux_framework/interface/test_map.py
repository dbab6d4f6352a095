from executor.test_map import *  # noqa: F403  the same tests, with this folder's fixtures
