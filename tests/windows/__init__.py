"""What pympipool promises on Windows, in the ways of both lifetimes of workers. These tests run on every system."""
