from support.detached_project import project  # noqa: F401  a fixture
