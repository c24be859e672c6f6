"""A net as a graph of operations, each of which is a module with one rule in every table."""
