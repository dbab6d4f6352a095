"""How fast the executor is, with its peers and the limits of the machine beside it, in the same run.

peers   ours and the others behind one interface     calls    what the workers run
cases   what is measured, on any of them              limits   what the machine could do (ring.c)
rounds  one case on all peers, in alternating rounds
report  tables and plots                              machine  on what, with which versions

python -m benchmarks               writes docs/benchmarks.md
python -m pytest benchmarks        the same cases in the tables of pytest-benchmark, and the guard
"""
