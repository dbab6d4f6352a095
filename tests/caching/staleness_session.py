"""A session of the staleness suite: print the key of a call in each of many variants of one script.

    python staleness_session.py FOLDER...

Each folder has a `script.py` with a function `f`. It runs as the program of an interpreter of its own would: in a fork of this one,
which has imported only what digests need.
"""

import json
import os
import runpy
import sys

import numpy  # noqa: F401  # the scripts use it, and it takes longer than all the rest

from pympipool.caching.keys import Keys


def print_key(folder, name):
    os.chdir(folder)
    sys.path.insert(0, folder)
    namespace = runpy.run_path(os.path.join(folder, name), run_name="__main__")
    module = type(sys)("__main__")
    module.__dict__.update(namespace)
    sys.modules["__main__"] = module
    print(json.dumps([folder, Keys().of_call(namespace["f"], (1,), {}, 1, "all").hex()]), flush=True)


def main():
    for folder in sys.argv[1:]:
        (name,) = (name for name in os.listdir(folder) if name.endswith("script.py"))
        pid = os.fork()
        if pid == 0:
            try:
                print_key(folder, name)
            finally:
                sys.stderr.flush()
                os._exit(0)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
