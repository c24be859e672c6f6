"""Which operators auto_LiRPA claims to know: the classes of its registry."""

BASES = {  # what others inherit, and what no node of a graph is
    "Bound",
    "BoundActivation",
    "BoundOptimizableActivation",
    "BoundReduce",
    "BoundTwoPieceLinear",
    "BoundSShaped",
    "BoundMinMax",
    "BoundSoftmaxImpl",
    "BoundedTensor",
    "BoundedParameter",
}


def classes() -> set[str]:
    """Names of all that a traced node can become."""
    from auto_LiRPA import bound_op_map, bound_ops
    from auto_LiRPA.bound_ops import Bound

    found = {c for c in (*vars(bound_ops).values(), *bound_op_map.bound_op_map.values()) if isinstance(c, type)}
    return {c.__name__ for c in found if issubclass(c, Bound) and c.__module__.startswith("auto_LiRPA")} - BASES
