"""The link to workers on other hosts: messages over TLS, and the relay that represents these workers to the master.

sockets.py        socket options, and the addresses of this host
stream.py         messages over an authenticated connection
handshake.py      TLS and the proof of the executor's key; the keepalive connection
client.py         the worker's end
unproved.py       connections to it that have proved nothing yet
relay.py          the master's end: a process that represents the workers of other hosts
remote_rank.py    one of these workers' ranks in the relay
shared_source.py  what the relay sends of shared data, and to whom
shared_copies.py  the shared data that a worker has got
agent_link.py     one agent in the relay
prefetch.py       which calls the relay sends ahead, and how it recalls them
"""
