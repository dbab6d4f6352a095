"""The way of one call in the master: from `submit` to the pool, and back to its future."""
