"""The lives of workers: start, greet, replace, end.

    supervisor.py   one thread that waits for everything that can happen to workers
    worker.py   one worker as its pool sees it
    reasons.py  why one has ended
    ending.py   how long what it does may take
    block.py    the pool of a fixed number of workers that serve many calls
    single.py   the pool that starts a worker for each call

A pool knows processes, connections and futures, but neither what a call means nor how
its bytes travel: those are the dispatcher's.
"""
