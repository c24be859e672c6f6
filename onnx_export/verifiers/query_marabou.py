"""Asks Marabou a question about an ONNX file.

``child.Child`` runs this file by itself, so it imports nothing of this project.
"""

import math
import tempfile
import warnings
from pathlib import Path

import numpy as np

STARTING_TIME = 5  # seconds for the logits at a point, where Marabou has nothing to search


def answer(question: dict) -> tuple[str, np.ndarray | None]:
    """Asks whether a point of a box has a logit that is at least the label's.

    Args:
        question: model, the bytes of the file; points, pairs of a float64 input and its float64 logits;
            tolerance, the error of a logit there, as a part of the largest logit, which counts ≥ 1.  To ask about a
            box also low and high, float64 arrays, its ends; label; seconds, the time limit that Marabou is told.

    Returns:
        Marabou's verdict in lower case: "sat", "unsat", "timeout", "unknown", "quit_requested" or "error"; without a
        box "read".  With "sat" also the point, a flat float64 array.

    Raises:
        ValueError: Marabou reads another function from the file: the logits at a point are others.
        NotImplementedError, AssertionError, …: Marabou cannot read the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns where TensorFlow is missing
        from maraboupy import Marabou, MarabouCore, MarabouUtils
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        path.write_bytes(question["model"])
        network = Marabou.read_onnx(str(path))
    inputs, outputs = (v[0].ravel().tolist() for v in (network.inputVars, network.outputVars))

    def solve(low: np.ndarray, high: np.ndarray, seconds: float) -> tuple[str, dict]:
        for variable, least, most in zip(inputs, low.ravel().tolist(), high.ravel().tolist()):
            network.setLowerBound(variable, least)
            network.setUpperBound(variable, most)
        options = Marabou.createOptions(verbosity=0, timeoutInSeconds=math.ceil(seconds))
        verdict, values, _ = network.solve(verbose=False, options=options)
        return verdict.lower(), values

    for point, expected in question["points"]:
        verdict, values = solve(point, point, STARTING_TIME)
        logits = np.array([values[v] for v in outputs]) if verdict == "sat" else np.full(expected.shape, np.nan)
        if not abs(logits - expected).max() <= question["tolerance"] * max(1.0, abs(expected).max()):
            raise ValueError("Marabou reads another function from the file: its logits at a point are not the net's")

    if "low" not in question:
        return "read", None
    label = outputs[question["label"]]
    at_least = []
    for other in outputs:
        if other != label:
            equation = MarabouUtils.Equation(MarabouCore.Equation.LE)  # z_label − z_other ≤ 0
            equation.addAddend(1, label)
            equation.addAddend(-1, other)
            equation.setScalar(0)
            at_least.append([equation])
    network.addDisjunctionConstraint(at_least)
    verdict, values = solve(question["low"], question["high"], question["seconds"])
    return verdict, np.array([values[v] for v in inputs]) if verdict == "sat" else None
