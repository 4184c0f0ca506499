"""Device meshes and the table from logical axis names to mesh axes."""
