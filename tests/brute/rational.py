"""The exact radius of a net of two inputs: the square is cut into the polygons on which the net is affine, by rational
arithmetic alone.  It shares nothing with ``linf_plugin.bounds``."""

import math
from fractions import Fraction
from itertools import pairwise

import torch
from torch import nn

from linf_plugin import LinfDistLinear, MeanShift, Negate, Normalize

Point = tuple[Fraction, Fraction]
Function = tuple[Fraction, Fraction, Fraction]  # a·x + b·y + c


def at(f: Function, point: Point) -> Fraction:
    return f[0] * point[0] + f[1] * point[1] + f[2]


def less(f: Function, g: Function) -> Function:
    return f[0] - g[0], f[1] - g[1], f[2] - g[2]


def clip(polygon: list[Point], f: Function) -> list[Point]:
    """The part of a convex polygon (or segment, or point) where f ≥ 0, boundary included; [] where it is empty."""
    values = [at(f, p) for p in polygon]
    kept = []
    for i, (p, v) in enumerate(zip(polygon, values)):
        q, w = polygon[i - 1], values[i - 1]
        if v * w < 0:
            t = w / (w - v)
            kept.append((q[0] + t * (p[0] - q[0]), q[1] + t * (p[1] - q[1])))
        if v >= 0:
            kept.append(p)
    return [p for i, p in enumerate(kept) if p != kept[i - 1] or len(kept) == 1] or kept[:1]


def flat(polygon: list[Point]) -> bool:
    """Whether it has no inside."""
    (x, y), *rest = polygon
    return len(rest) < 2 or all((a[0] - x) * (b[1] - y) == (b[0] - x) * (a[1] - y) for a, b in pairwise(rest))


def split(polygon: list[Point], options: list[Function]) -> list[tuple[list[Point], Function]]:
    """Polygons that cover this one, and the largest option on each."""
    options = list(dict.fromkeys(options))
    values = [[at(f, p) for p in polygon] for f in options]
    best = max(range(len(options)), key=lambda i: sum(values[i]))
    others = [
        options[i] for i in range(len(options)) if i != best and any(v > w for v, w in zip(values[i], values[best]))
    ]
    if not others:
        return [(polygon, options[best])]
    candidates, pieces = [options[best], *others], []
    for f in candidates:
        part = polygon
        for g in candidates:
            if g is not f and part:
                part = clip(part, less(f, g))
        if part and not flat(part):  # the others cover their boundaries
            pieces.append((part, f))
    return pieces


def exact(values: torch.Tensor) -> list:
    """Fractions, in lists of lists as the tensor's axes are."""
    if values.dim() == 0:
        return Fraction(values.item())
    return [exact(v) for v in values]


def combine(row: list[Fraction], functions: list[Function], offset: Fraction) -> Function:
    a, b, c = (sum((w * f[i] for w, f in zip(row, functions)), Fraction(0)) for i in range(3))
    return a, b, c + offset


def scaled(f: Function, scale: Fraction, offset: Fraction) -> Function:
    return scale * f[0], scale * f[1], scale * f[2] + offset


def step(layer: nn.Module, polygon: list[Point], functions: list[Function]):
    """(polygon, the layer's outputs on it) for each piece of the layer on this polygon."""
    if isinstance(layer, (nn.Flatten, nn.Identity)):
        return [(polygon, functions)]
    if isinstance(layer, Negate):
        return [(polygon, [scaled(f, Fraction(-1), Fraction(0)) for f in functions])]
    if isinstance(layer, MeanShift):
        means = exact(layer.running_mean)
        return [(polygon, [scaled(f, Fraction(1), -m) for f, m in zip(functions, means)])]
    if isinstance(layer, Normalize):
        scale, means = Fraction(layer.scale), exact(layer.mean)
        means = means * len(functions) if len(means) == 1 else means
        return [(polygon, [scaled(f, scale, -m * scale) for f, m in zip(functions, means)])]
    if isinstance(layer, nn.Linear):
        bias = [Fraction(0)] * layer.out_features if layer.bias is None else exact(layer.bias)
        return [(polygon, [combine(row, functions, c) for row, c in zip(exact(layer.weight), bias)])]
    if isinstance(layer, nn.ReLU):
        maxima = [[f, (Fraction(0),) * 3] for f in functions]
        bias = [Fraction(0)] * len(functions)
    elif isinstance(layer, LinfDistLinear) and layer.p == math.inf:
        maxima = [
            [scaled(f, Fraction(s), -s * w) for f, w in zip(functions, row) for s in (1, -1)]
            for row in exact(layer.weight)
        ]
        bias = [Fraction(0)] * len(maxima) if layer.bias is None else exact(layer.bias)
    else:
        raise TypeError(f"no pieces are known of {layer}")
    pieces = [(polygon, [])]
    for options, c in zip(maxima, bias):
        pieces = [
            (part, [*found, scaled(f, Fraction(1), c)]) for whole, found in pieces for part, f in split(whole, options)
        ]
    return pieces


def nearest(polygon: list[Point], x: Point) -> Fraction:
    """The least ‖p − x‖∞ over a polygon that does not hold x: on an edge, at an end or where |p − x| is the same in
    both coordinates."""
    points = list(polygon)
    for i, p in enumerate(polygon):
        q = polygon[i - 1]
        for sign in (1, -1):
            v, w = ((s[0] - x[0]) - sign * (s[1] - x[1]) for s in (p, q))
            if v * w < 0:
                t = w / (w - v)
                points.append((q[0] + t * (p[0] - q[0]), q[1] + t * (p[1] - q[1])))
    return min(max(abs(p[0] - x[0]), abs(p[1] - x[1])) for p in points)


def radius(net: nn.Sequential, x: torch.Tensor, label: int, low: float, high: float) -> Fraction | None:
    """The least ‖x′ − x‖∞ with z_j(x′) ≥ z_label(x′) for some j ≠ label and low ≤ x′ ≤ high; None where there is no
    such x′."""
    a, b = Fraction(low), Fraction(high)
    one, zero = Fraction(1), Fraction(0)
    pieces = [([(a, a), (b, a), (b, b), (a, b)], [(one, zero, zero), (zero, one, zero)])]
    for layer in net:
        pieces = [new for polygon, functions in pieces for new in step(layer, polygon, functions)]
    centre, best = tuple(exact(x.flatten())), None
    for polygon, logits in pieces:
        for j, f in enumerate(logits):
            if j == label:
                continue
            margin = less(f, logits[label])
            values = [at(margin, p) for p in polygon]
            if max(values) < 0:
                continue
            part = polygon if min(values) >= 0 else clip(polygon, margin)
            # a piece that holds x has an edge around it, or is where x itself has another class
            inside = at(margin, centre) >= 0 and _holds(polygon, centre)
            found = zero if inside else nearest(part, centre)
            best = found if best is None else min(best, found)
    return best


def _holds(polygon: list[Point], x: Point) -> bool:
    """Whether a polygon with an inside, in the order of its vertices, holds the point."""
    turns = [
        (p[0] - q[0]) * (x[1] - q[1]) - (p[1] - q[1]) * (x[0] - q[0])
        for q, p in zip(polygon, polygon[1:] + polygon[:1])
    ]
    return min(turns) >= 0 or max(turns) <= 0
