"""Exchange bytes between master and worker, and authenticate both sides.

    bootstrap.py        what a worker learns from its environment: WorkerConfig
    frames.py           the format of the control connection: hello, frames
    control_server.py   the master's end: a listener, and one connection for each rank
    control_client.py   the worker's end of the control connection
    local_unix.py       the sockets of both ends on one host: whose is the peer, how do descriptors travel
    local_windows.py    the same on Windows
    fork_requests.py    requests for forked workers: to a fork server, and through the relay to an agent
    shm.py              the link to a worker on this host: a segment with two rings, both ends
    tcp/                the link to a worker on another host

Order of events, from the start of a worker to its first call:

    master                              each rank of the worker
    Listener()  -- address and key in the environment -->
                                        WorkerControl.connect: is the listener of the same user?
    accept: is the peer of the same     <- connect, hello (key, worker, rank)
            user?
    handshake: is the key right?
    send setup (and descriptors) -----> receive_setup, open_channel
                                 <----- ready, or start_failed
    calls and results travel over the link; the end of a connection tells that the other side is gone
"""
