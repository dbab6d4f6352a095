"""Benchmarks of the executor. The same run measures its peers and the limits of the machine.

pools         executors behind one interface
peers         pympipool and its peers
calls         the functions that workers run
samples       how to take a sample
payloads      what programs send and return
shared_data   data that many calls read, shared as each peer does
cases         what to measure, on any peer
limits        the limits of the machine (ring.c)
idle          CPU time of idle processes and of other programs
units         how figures are printed
peer_process  a process for each peer
rounds        one case on all peers, in alternating rounds
machine       description of the machine, and versions
results       measurements, stored in files
targets       ratios to reach
plots         comparisons as SVG
report        the page: tables, plots and targets
pairs         two executors in one run

Programs:

python -m benchmarks               measures all cases and writes docs/benchmarks.md
python -m benchmarks.memory        memory of master and worker during a million calls
python -m benchmarks.pending       memory of pending calls; a part of the cases
python -m benchmarks.slurm         workers started by SLURM, compared with local ones
python -m benchmarks.tcp           workers behind the TCP transport, compared with executorlib
python -m benchmarks.trace_cost    cost of a trace
python -m pytest benchmarks        the same cases in the tables of pytest-benchmark, and the guard
"""
