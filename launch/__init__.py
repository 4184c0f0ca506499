"""Starting runs: processes of one machine, TPU slices, Kubernetes, SLURM, sweeps."""

from unitoken_jax.commands import refuse_others

refuse_others()
