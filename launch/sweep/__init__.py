"""Many runs of one experiment: what they share is trained once."""
