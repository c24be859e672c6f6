"""Ways to use each operator that ``linf_plugin.graphs.readers`` reads, with random arguments."""
