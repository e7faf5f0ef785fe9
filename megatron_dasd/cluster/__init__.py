"""A pipeline as dependent jobs of a Slurm cluster."""
