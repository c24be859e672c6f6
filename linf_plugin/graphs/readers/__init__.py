"""How each operator of a traced program becomes operations of a graph.

A reader takes the builder and the arguments of one call, by the names of PyTorch's schema with all defaults.  It
returns the value of the call, or a list of values.
"""
