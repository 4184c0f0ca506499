"""What every program runs on: its processes, and pytrees by path."""
