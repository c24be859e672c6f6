"""α,β-CROWN as a complete verifier.  It is a program of its own, which need not share this Python."""

import math
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from onnx_export.verifiers import query_abcrown
from onnx_export.verifiers.child import Child
from onnx_export.verifiers.generate_properties import version_1
from onnx_export.verifiers.readable import readable_model

from .question import Answer, Asked, answer_of

PROGRAM = query_abcrown.__file__
PLACE, PYTHON = "ABCROWN", "ABCROWN_PYTHON"  # environment variables; the first may also name the script or a program
SCRIPT = "abcrown.py"
FLAVOUR = "relu"  # it splits ReLUs
SPARE = 60.0  # seconds that it may take to start and to end


def command() -> list[str]:
    """Returns the command that runs it.

    Raises FileNotFoundError with a sentence that says where to point the environment variables.
    """
    how = (
        f"α,β-CROWN is needed: set {PLACE} to a checkout of github.com/Verified-Intelligence/alpha-beta-CROWN, and "
        f"{PYTHON} to a Python in which its requirements are installed"
    )
    place = os.environ.get(PLACE)
    if not place:
        raise FileNotFoundError(how)
    at = Path(place).expanduser()
    scripts = [path for path in (at, at / SCRIPT, at / "complete_verifier" / SCRIPT) if path.is_file()]
    if not scripts:
        raise FileNotFoundError(f"{how}; {PLACE}={place} has no complete_verifier/{SCRIPT}")
    script, python = str(scripts[0].resolve()), os.environ.get(PYTHON) or sys.executable
    if not script.endswith(".py"):
        return [script]
    if shutil.which(python) is None:
        raise FileNotFoundError(f"{how}; {PYTHON}={python} is no program")
    return [python, script]


def installed() -> None:
    command()


@torch.no_grad()
def prepared(model: nn.Module, x: Tensor, child: Child) -> dict:
    """Returns the command and the net as a file.  Raises TypeError or ValueError if the net cannot be written."""
    graph = readable_model(model, x, FLAVOUR)
    return {
        "command": command(),
        "model": graph.SerializeToString(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "classes": model(x.clone()).shape[1],
    }


def question(problem: dict, asked: Asked) -> dict:
    low, high = asked.box
    others = [j for j in range(problem["classes"]) if j != asked.label]
    settings = {"output": {"shape": [1, problem["classes"]]}}
    asks = {"property": version_1(settings, low, high, asked.label, others), "seconds": asked.seconds}
    return {**problem, **asks, "kill": asked.seconds + SPARE}


def answer(found: tuple[str, dict[int, float]], asked: Asked) -> Answer:
    word, coordinates = found
    point = np.full(math.prod(asked.x.shape), np.nan)
    for i, value in coordinates.items():
        if i < len(point):
            point[i] = value
    return answer_of(word, point)
