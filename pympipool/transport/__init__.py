"""How master and worker exchange bytes, and how each proves to the other who it is.

    frames.py           what travels over a control connection: hello, frames, user ids
    control.py          the master's end: a listener, and one connection for each rank
    orders.py           what a worker finds in its environment
    control_worker.py   the worker's end of the control connection
    shm.py              the link of one worker: a segment with two rings, both ends
    tcp.py              the link to a worker on another host: what its two ends share
    tcp_worker.py       the worker's end of it
    relay.py            the master's end: a process that stands in for workers on other hosts

Order of events, from the start of a worker to its first call:

    master                              each rank of the worker
    Listener()  -- address and key in the environment -->
                                        WorkerControl.connect: is the listener ours?
    accept: is the peer's user ours? <- connect, hello (key, worker, rank)
    greet: is the key ours?
    send setup (and descriptors) -----> receive_setup, open_channel
                                 <----- ready, or failed
    calls and results over the link; the connections tell by their end that a side is gone
"""
