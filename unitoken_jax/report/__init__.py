"""The self-contained HTML page of a run, built from its files alone."""
