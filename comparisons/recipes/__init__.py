"""Recipes: what a run trains and how, as TOML files, and what reads them."""
