"""What pympipool promises on Windows, in the ways of both lifetimes of workers. Most of these tests run on every system."""
