"""Starting runs: processes of one machine, TPU slices, Kubernetes, SLURM, sweeps."""
