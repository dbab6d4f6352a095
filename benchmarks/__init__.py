"""How fast the executor is, with its peers and the limits of the machine beside it, in the same run.

peers    ours and the others behind one interface     calls    what the workers run
samples  how a sample is taken                        limits   what the machine could do (ring.c)
cases    what is measured, on any peer                units    how figures are read
station  a peer in a process of its own               idle     processor time
rounds   one case on all peers, in alternating rounds
results  what was measured, kept as files             machine  on what, with which versions
report   tables, with plots and targets               pending  memory of calls that wait

memory   of both sides, while very many calls go by

python -m benchmarks               writes docs/benchmarks.md
python -m pytest benchmarks        the same cases in the tables of pytest-benchmark, and the guard
"""
