from executor.test_wait_and_as_completed import *  # noqa: F403  the same tests, with this folder's fixtures
