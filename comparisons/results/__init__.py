"""The results of a run: typed objects, the file that holds them, and the forms of earlier files."""
