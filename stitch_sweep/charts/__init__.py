"""Charts, each described once: a sweep draws its matrices with them, and a report everything else."""
