#!/bin/sh
flux start python mpi.py
