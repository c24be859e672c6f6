"""Exact radii of random nets of two inputs, against a search through all their pieces in rational arithmetic."""
