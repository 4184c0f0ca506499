"""What is seen of a run while it trains, and what says that it goes wrong."""
