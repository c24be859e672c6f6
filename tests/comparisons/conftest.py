"""A verifier for tests, whose answers a file gives, and a tiny net."""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from comparisons.verifiers import complete
from comparisons.verifiers.question import answer_of

PROGRAM = """
import os, time

def answer(question):
    with open(question["log"], "a") as f:
        f.write(f"{question['row']} {os.getpid()}\\n")
    what = question["what"]
    if what == "sleep":
        time.sleep(60)
    if what == "take":
        bytearray(8 << 30)
    if what == "abort":
        os.abort()
    return what, question["point"]
"""


class Scripted:
    """A verifier "scripted" in ``COMPLETE``.  words: what it answers about each sample, in order."""

    def __init__(self, folder: Path):
        self.PROGRAM, self.log = folder / "program.py", folder / "log.txt"
        self.PROGRAM.write_text(PROGRAM)
        self.words, self.point, self.refuses = [], None, None

    def installed(self):
        pass

    def prepared(self, model, x, child):
        if self.refuses:
            raise ValueError(self.refuses)

    def question(self, prepared, asked):
        row = round(float(asked.x.flatten()[0]) * 100)
        point = np.array(self.point if self.point is not None else asked.x.flatten(), float)
        return {"log": str(self.log), "row": row, "what": self.words[row], "point": point}

    def answer(self, found, asked):
        return answer_of(*found)

    def asked(self) -> list[int]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [int(line.split()[0]) for line in lines]


@pytest.fixture
def scripted(tmp_path_factory, monkeypatch):
    found, module = Scripted(tmp_path_factory.mktemp("scripted")), types.ModuleType("scripted")
    for name in ("installed", "prepared", "question", "answer", "PROGRAM"):
        setattr(module, name, getattr(found, name))
    monkeypatch.setitem(sys.modules, "comparisons.verifiers.scripted", module)
    row = complete.Verifier("scripted", "scripted one", "about nothing", "scripted", spare=0.2, alone=False)
    monkeypatch.setitem(complete.COMPLETE, "scripted", row)
    return found


@pytest.fixture
def numbered():
    """A net of one input that says class 0 below 0.5, and samples 0.00, 0.01, … of class 0."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 2)).eval()
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0], [1.0]]))
        net[1].bias.copy_(torch.tensor([0.0, -0.5]))
    x = torch.arange(8).float().view(-1, 1) / 100
    return net, x, torch.zeros(8, dtype=torch.long)
