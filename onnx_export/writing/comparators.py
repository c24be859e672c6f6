"""Networks of comparators that merge sorted lists, as data.  Sorted sums in ReLUs are built from them.

A comparator (i, j) of two wires leaves the larger value on i and the smaller one on j.
"""

import numpy as np

Comparator = tuple[int, int]


def merge(a: list[int], b: list[int]) -> tuple[list[Comparator], list[int]]:
    """Batcher's odd-even merge of two lists of wires.  The lists have the same length, and their values descend.

    Returns:
        The comparators in order, and the wires in an order in which their values then descend.
    """
    if len(a) < 2:
        return list(zip(a, b)), a + b
    first, even = merge(a[::2], b[::2])
    second, odd = merge(a[1::2], b[1::2])
    order = even[:1]
    for pair in zip(odd, even[1:]):
        order += pair
    rest = odd[len(even) - 1 :] + even[len(odd) + 1 :]
    return first + second + list(zip(odd, even[1:])), order + rest


def stages(comparators: list[Comparator], needed: list[int]) -> list[tuple[list[Comparator], list[int]]]:
    """The comparators in stages: those of one stage act at the same time.

    Args:
        comparators: in order.
        needed: the wires whose values are needed at the end.  Comparators on which none of these depend are left out.

    Returns:
        For each stage its comparators, and the wires that are needed after it.
    """
    live, used = set(needed), []
    for pair in reversed(comparators):
        if live & set(pair):
            live |= set(pair)
            used.append(pair)
    depth, at = {}, []
    for i, j in reversed(used):
        depth[i] = depth[j] = stage = max(depth.get(i, 0), depth.get(j, 0)) + 1
        at[stage - 1 :] = [(at[stage - 1] if stage <= len(at) else []) + [(i, j)], *at[stage:]]
    live, found = set(needed), []
    for pairs in reversed(at):
        found.append((pairs, sorted(live)))
        for pair in pairs:
            if live & set(pair):
                live |= set(pair)
    return found[::-1]


def compare(
    wires: dict[int, np.ndarray], pairs: list[Comparator], live: list[int]
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """One stage in ReLUs: max(a, b) = b + relu(a − b) and min(a, b) = a − relu(a − b), for values ≥ 0.

    Args:
        wires: each value as a combination of the channels before the stage.
        pairs: the comparators.
        live: the wires that are needed after the stage.

    Returns:
        The combinations (channels after, channels before) whose ReLUs are the channels after the stage, and the needed
        wires as combinations of these channels.
    """
    other = dict(pairs) | {j: i for i, j in pairs}
    kept = [w for w in wires if other.get(w, w) in live]
    rows = np.array([wires[w] for w in kept] + [wires[i] - wires[j] for i, j in pairs])
    unit = dict(zip([*kept, *pairs], np.eye(len(rows))))
    after = {w: unit[other.get(w, w)] for w in live}
    for i, j in pairs:
        for w, sign in ((i, 1), (j, -1)):
            if w in after:
                after[w] = after[w] + sign * unit[i, j]
    return rows, after
