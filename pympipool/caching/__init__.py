"""Results on disk: a call that was made before, with the same function and arguments, is answered without running it.

    calls.py       stands before an engine: key, lookup, and either a future that is done or a call whose result is stored
    maps.py        the same for the calls of a map: they are looked up together, and sent in batches
    keys.py        the key of a call, made of
    functions.py     what the function does: its code and all that this refers to; code.py: code without line numbers
    modules.py       the modules that it refers to; origins.py: where they are; installed.py: packages; file_stamps.py: which
                     files have changed
    values.py        its arguments
    store.py       a cache directory: what is looked up, written and removed
    directory.py     whose it is, and on what file system: directory_unix.py, directory_windows.py
    index.py         small results, and where the others are: SQLite
    known_keys.py    which keys the index has, in memory
    files.py         large results, a file each; file_format.py: what is in it; file_access_unix.py and
                     file_access_windows.py: how files are renamed and removed that may be in use
    handover.py      the folder in which workers write such files
    exceptions.py  what calls have raised, where the user wants to keep it
    entries.py     what a future has of its cached result
    inputs.py        what other calls get of it
    writer.py      the thread that writes results
    reading.py     the results of a directory for users

A worker imports nothing of this but file_format.py and file_access_*.py, when it writes the first large result; a script without
a cache nothing.
"""
