from executor.test_threads_and_asyncio import *  # noqa: F403  the same tests, with this folder's fixtures
