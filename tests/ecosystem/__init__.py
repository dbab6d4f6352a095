"""Third-party packages that take an executor or a `map` function work with pympipool as with the standard library."""
