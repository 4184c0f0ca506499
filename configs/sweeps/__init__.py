"""One file for each sweep: an experiment, what is varied, what its page shows."""
