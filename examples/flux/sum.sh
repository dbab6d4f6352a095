#!/bin/sh
flux start python sum.py
