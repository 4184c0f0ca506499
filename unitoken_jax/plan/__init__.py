"""What a job would take on TPUs that are not there: python -m unitoken_jax.plan."""
