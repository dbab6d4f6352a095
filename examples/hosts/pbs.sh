#!/bin/bash
#PBS -l select=2:ncpus=4:mpiprocs=4

cd "$PBS_O_WORKDIR"
python job.py
