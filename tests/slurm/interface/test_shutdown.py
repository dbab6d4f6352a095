from executor.test_shutdown import *  # noqa: F403  the same tests, with this folder's fixtures
