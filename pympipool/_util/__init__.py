"""Small helpers without a subject of their own: C parts of standard modules, reprs, subprocesses, number formats."""
