from executor.test_cancel import *  # noqa: F403  the same tests, with this folder's fixtures
