"""Backend "flux": one flux job for each worker."""
