#!/bin/bash
#$ -cwd -V -S /bin/bash
#$ -pe mpi 4

python job.py
