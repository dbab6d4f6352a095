"""What users look at while an executor runs and afterwards: progress, status, call graphs, traces, the environment."""
