"""Agents: one process on each host, started once, that forks the workers of its host.

    launcher.py   what starts one program on each host: the interface that each scheduler has a small file for
    launch.py     one launch, until an agent has connected
    launches.py   the launches of one executor, and the pauses after failed ones
    agents.py     the agents of one executor: launches them, gives workers to hosts that have room, replaces lost agents
    host.py       one agent, and the slots of its host
    process.py    a worker that an agent forks
    spawner.py    the spawner of such workers
    jobs.py       what an agent starts in place of a fork
    placement.py  on which hosts the ranks of a worker are
    spanning.py   an MPI worker on several hosts
    spanning_spawner.py   the spawner of such workers

The agent's own program is `pympipool.worker.agent`; requests go through the relay (`pympipool.transport.tcp.agent_link`).
"""
