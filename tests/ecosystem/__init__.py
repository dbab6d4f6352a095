"""Packages of others that take an executor, or a `map`: with ours they do what they do with the standard library's."""
