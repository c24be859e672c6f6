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
from onnx_export.verifiers.abcrown_graph import abcrown_graph
from onnx_export.verifiers.child import Child, Ended
from onnx_export.verifiers.generate_properties import version_1
from onnx_export.verifiers.readable import allowed_error, other_sample, readable_model

from .question import Answer, Asked, answer_of, refused

PROGRAM = query_abcrown.__file__
PLACE, PYTHON = "ABCROWN", "ABCROWN_PYTHON"  # environment variables; the first may also name the script or a program
SCRIPT = "abcrown.py"
FLAVOUR = "relu"  # it splits ReLUs
SPARE = 60.0  # seconds that it may take to start and to end
READING = 120.0  # seconds to start and to read a net


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
    """Returns the command and the net as a file.

    Raises:
        TypeError, ValueError: the net cannot be written, α,β-CROWN does not read it as it is, or it bounds an operator
            wrongly.
    """
    graph = abcrown_graph(readable_model(model, x, FLAVOUR), model, x)
    other = other_sample(x)
    logits = model(other.clone())
    problem = {
        "command": command(),
        "model": graph.SerializeToString(),
        "device": "cuda" if torch.cuda.is_available() else "cpu",
        "tolerance": allowed_error(logits),
        "classes": logits.shape[1],
    }
    point = other.double().numpy().ravel()
    try:
        word, _ = child.ask(_asked(problem, point, point, 0, None, READING), READING + SPARE)
        if word != "read":
            raise Ended("time")
    except Ended as ended:
        raise refused(ended) from ended
    child.close()
    return problem


def question(problem: dict, asked: Asked) -> dict:
    return _asked(problem, *asked.box, asked.label, asked.seconds, asked.seconds + SPARE)


def _asked(problem: dict, low: np.ndarray, high: np.ndarray, label: int, seconds: float | None, kill: float) -> dict:
    settings = {"output": {"shape": [1, problem["classes"]]}}
    others = [j for j in range(problem["classes"]) if j != label]
    return {**problem, "property": version_1(settings, low, high, label, others), "seconds": seconds, "kill": kill}


def answer(found: tuple[str, dict[int, float]], asked: Asked) -> Answer:
    word, coordinates = found
    point = np.full(math.prod(asked.x.shape), np.nan)
    for i, value in coordinates.items():
        if i < len(point):
            point[i] = value
    return answer_of(word, point)
