"""A file for each published network: its weight table and its configuration."""
