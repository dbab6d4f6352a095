"""Run an external MPI program several times inside an allocation, each time on two of its cores."""

import sys

from pympipool import SubprocessExecutor

# In place of a program such as pw.x or lmp: it prints the number of its ranks.
code = "from mpi4py.MPI import COMM_WORLD as world; world.rank == 0 and print(world.size, 'ranks')"
program = [sys.executable, "-c", code]

# Each command has its own job step with two cores, in which this mpiexec starts the ranks. Without "-launcher fork", MPICH's
# mpiexec would ask SLURM for another step. For Open MPI: mpiexec --host localhost:2.
command = ["mpiexec", "-launcher", "fork", "-n", "2", *program]

with SubprocessExecutor(max_cores=2, backend="slurm", block_allocation=False, resource_dict={"cores": 2}) as exe:
    runs = [exe.submit(command, text=True) for _ in range(2)]
    print([run.result().strip() for run in runs])
