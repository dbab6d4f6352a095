#!/bin/bash
#BSUB -n 8
#BSUB -R "span[ptile=4]"

python job.py
