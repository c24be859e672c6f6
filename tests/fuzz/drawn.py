"""Random graphs of up to twelve operators, as data: each step takes some of the values before it."""

import random

import torch
from torch import Tensor, nn

from .cases import Case, begin, finish
from .uses.table import FAMILIES, USES
from .uses.use import Shape

MOST_STEPS = 12
MOST_NUMBERS = 160  # of a value of one sample
SHARES = {"weights": 6, "functions": 5, "arithmetic": 4, "moves": 4, "reductions": 2, "pools": 2}
SHAPES = {  # of a sample
    "numbers": lambda r: (r.randint(2, 20),),
    "rows": lambda r: (r.randint(1, 5), r.randint(1, 7)),
    "images": lambda r: (r.choice((1, 2, 3, 4)), r.randint(2, 7), r.randint(2, 7)),
    "volumes": lambda r: (r.randint(1, 2), r.randint(1, 3), r.randint(2, 4), r.randint(1, 4)),
}


class Drawn(nn.Module):
    """A graph of steps, and a linear layer on the last values.

    Args:
        shape: of one sample.
        steps: for each, ``use``: the name of the operator and which use of it; ``of``: the values that it takes, of
            which 0 is the input; ``arguments``; or ``again``: the step whose module is used once more.
        ends: the values that the last layer takes.  Without classes, one value that is the output.
        classes: how many logits; 0 if there is no last layer.
    """

    def __init__(self, shape: list[int], steps: list[dict], ends: list[int], classes: int):
        super().__init__()
        self.steps, self.ends = steps, ends
        self.made = nn.ModuleDict()
        for i, step in enumerate(steps):
            make = _use(step).make
            if make is not None and "again" not in step:
                self.made[str(i)] = make(**step["arguments"])
        self.eval()
        self.head = None
        if classes:
            with torch.no_grad():
                self.head = nn.Linear(self.joined(torch.zeros(2, *shape)).shape[1], classes)

    def values(self, x: Tensor) -> list[Tensor]:
        values = [x]
        for i, step in enumerate(self.steps):
            use, given = _use(step), [values[j] for j in step["of"]]
            if use.make is None:
                values.append(use.run(*given, **step["arguments"]))
            else:
                values.append(self.made[str(step.get("again", i))](*given))
        return values

    def joined(self, x: Tensor) -> Tensor:
        values = self.values(x)
        return torch.cat([values[j].reshape(x.shape[0], -1) for j in self.ends], 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.values(x)[self.ends[0]] if self.head is None else self.head(self.joined(x))


def _use(step: dict):
    name, k = step["use"]
    return USES[name][k]


def _names(family: str) -> list[str]:
    return [name for name in USES if name.split(".", 1)[1] in FAMILIES[family] or name in FAMILIES[family]]


NAMES = {family: _names(family) for family in SHARES}


def _taken(r: random.Random, values: int, count: int) -> list[int]:
    """Mostly the last value."""
    return [values - 1 if r.random() < 0.6 else r.randrange(values) for _ in range(count)]


def _step(r: random.Random, shapes: list[Shape], earlier: list[dict]) -> dict | None:
    """A step that fits the values so far; None if what was drawn does not."""
    shared = [i for i, step in enumerate(earlier) if _use(step).make is not None and "again" not in step]
    if shared and r.random() < 0.08:
        i = r.choice(shared)
        fitting = [j for j, shape in enumerate(shapes) if shape == shapes[earlier[i]["of"][0]]]
        return {**earlier[i], "of": [r.choice(fitting)], "again": i}
    name = r.choice(NAMES[r.choices(list(SHARES), SHARES.values())[0]])
    k = r.randrange(len(USES[name]))
    use = USES[name][k]
    of = _taken(r, len(shapes), use.takes)
    if use.takes > 1 and r.random() < 0.8:
        same = [j for j, shape in enumerate(shapes) if shape == shapes[of[0]]]
        of = [of[0], *(r.choice(same) for _ in of[1:])]
    arguments = use.draw(r, *(shapes[j] for j in of))
    return None if arguments is None else {"use": [name, k], "of": of, "arguments": arguments}


@torch.no_grad()
def _source(r: random.Random, kind: str) -> dict:
    shape = SHAPES[kind](r)
    steps: list[dict] = []
    values = [torch.rand(2, *shape)]
    for _ in range(r.randint(1, MOST_STEPS)):
        for _ in range(30):
            step = _step(r, [tuple(v.shape[1:]) for v in values], steps)
            if step is None:
                continue
            found = Drawn(list(shape), [*steps, step], [len(steps) + 1], 0).values(values[0])[-1]
            if 0 < found[0].numel() <= MOST_NUMBERS:
                values.append(found)
                steps.append(step)
                break
    last = len(values) - 1
    if values[last].dim() == 2 and 2 <= values[last].shape[1] <= 6 and r.random() < 0.4:
        return {"shape": list(shape), "steps": steps, "ends": [last], "classes": 0}
    used = {j for step in steps for j in step["of"]}
    ends = [last, *(j for j in range(last) if r.random() < (0.1 if j in used else 0.5))]
    return {"shape": list(shape), "steps": steps, "ends": ends, "classes": r.choice((2, 3, 5))}


def build(source: dict) -> Drawn:
    """The net of ``source``, in evaluation mode, with weights that are still to be drawn."""
    return Drawn(**source).eval().requires_grad_(False)


def draw(seed: int, index: int, samples: int) -> tuple[Case, random.Random]:
    """The case number ``index`` of this seed, and where to draw on from."""
    r = begin("drawn", seed, index)
    kind = list(SHAPES)[index % len(SHAPES)]
    source = _source(r, kind)
    first = (max(len(source["steps"]), 1) - 1) // 4 * 4 + 1
    return finish("drawn", kind, f"{first} to {first + 3} operators", build(source), source, r, samples), r
