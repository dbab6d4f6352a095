from executor.test_references import *  # noqa: F403  the same tests, with this folder's fixtures
