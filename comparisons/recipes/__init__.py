"""Recipes, and the code that reads them.  A recipe is a TOML file that says what a run trains and how."""
