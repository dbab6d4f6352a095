"""Pools: start workers, replace those that die, end them.

    event_loop.py     a thread that waits for descriptors, timers and functions from other threads
    supervisor.py     starts workers and handles everything that happens to them, in that thread
    connections.py    the control connections of workers
    rank_services.py  what ranks are sent: settings, the link, what they ask for
    worker_ends.py    how the ends of workers are noticed
    worker_handle.py  a worker as its pool sees it
    output.py         what a worker prints, forwarded to the user
    last_lines.py     the last lines of that, for error messages
    timeouts.py       time limits of calls and ranks
    failures.py       why a worker ended, as an exception and for the log
    base.py           what both pools have in common
    factory.py        makes the pool of an executor
    block_pool.py     a fixed number of workers that serve many calls
    per_call_pool.py  a worker for each call
    queued_call.py    a call of that pool
    serial_engine.py  no worker: calls run in the thread that submits them

A pool knows processes, connections and futures. What a call means and how its bytes travel is the dispatcher's part.
"""
