"""Points are checked as training would, in a process of their own."""
