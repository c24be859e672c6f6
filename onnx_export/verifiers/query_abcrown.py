"""Asks the verifier α,β-CROWN one question, on its command line.

``child.Child`` runs this file by itself, so it imports nothing of this project.
"""

import re
import subprocess
import tempfile
from pathlib import Path

NET, PROPERTY, CONFIG, RESULTS, POINT, LOG = (
    "net.onnx",
    "property.vnnlib",
    "config.yaml",
    "results.txt",
    "counterexample.txt",
    "log.txt",
)

# Absolute paths: the verifier may look for relative ones in a folder of its own.
_CONFIG = """\
general:
  device: {device}
  double_fp: true
  conv_mode: matrix  # in patches mode its bounds are wrong for groups and dilations, and it fails on some shifts
  complete_verifier: bab
  prepare_only: {reading}
  save_adv_example: true
  results_file: '{folder}/{results}'
model:
  onnx_path: '{folder}/{net}'
specification:
  vnnlib_path: '{folder}/{property}'
bab:
  timeout: {seconds:g}
attack:
  cex_path: '{folder}/{point}'
"""
_COORDINATE = re.compile(r"\(\s*X_(\d+)\s+([-+.\deE]+)\s*\)")
_RESULT = re.compile(r"^Result:\s*(\S+)", re.MULTILINE)
_TIME = re.compile(r"^Time:\s*([\d.]+)", re.MULTILINE)
_ERROR = re.compile(r"^Max error: tensor\(([^,)\s]+)", re.MULTILINE)
# It compares the net that it has read with onnxruntime, says what it found, and goes on.
_OTHER_NET, _NOT_COMPARED = "Model might not be converted correctly", "Not able to check model's conversion correctness"


def answer(question: dict) -> tuple[str, dict[int, float]]:
    """Runs the verifier in a temporary folder.

    Args:
        question: command, to which ``--config FILE`` is added; model, the bytes of an ONNX file; property, VNN-LIB 1.0;
            device, "cpu" or "cuda"; tolerance, how far logits may be from those that onnxruntime finds; seconds, the
            time limit that the verifier is told, or None if it shall only read the net; kill, the seconds after which
            it is killed.

    Returns:
        "sat", "unsat", "timeout" or "unknown"; and what it wrote of a counter-example: number of a coordinate → value.
        If it only read the net, "read".

    Raises:
        RuntimeError: the verifier ended without a result, or it reads another function from the file.
    """
    seconds = question["seconds"]
    with tempfile.TemporaryDirectory() as folder:
        at = Path(folder)
        (at / NET).write_bytes(question["model"])
        (at / PROPERTY).write_text(question["property"], encoding="utf-8")
        names = {"net": NET, "property": PROPERTY, "results": RESULTS, "point": POINT}
        names |= {"reading": "true" if seconds is None else "false", "seconds": 1 if seconds is None else seconds}
        config = _CONFIG.format(folder=folder, device=question["device"], **names)
        (at / CONFIG).write_text(config, encoding="utf-8")
        command = [*question["command"], "--config", str(at / CONFIG)]
        with open(at / LOG, "wb") as log:
            try:
                done = subprocess.run(command, cwd=at, stdout=log, stderr=log, timeout=question["kill"], check=False)
            except subprocess.TimeoutExpired:
                return "timeout", {}
        written = (at / LOG).read_text(encoding="utf-8", errors="replace")
        result = (at / RESULTS).read_text(encoding="utf-8") if (at / RESULTS).is_file() else ""
    _check_net(written, question["tolerance"])
    if seconds is None and done.returncode == 0:
        return "read", {}
    return _read(result, written, done.returncode, seconds)


def _check_net(log: str, tolerance: float) -> None:
    """Raises RuntimeError if the log says that the net that was read is another function."""
    if _NOT_COMPARED in log:
        raise RuntimeError("α,β-CROWN could not compare the net that it read with the file")
    if _OTHER_NET in log:
        errors = [float(error) for error in _ERROR.findall(log)]
        if not errors or not max(errors) <= tolerance:
            raise RuntimeError("α,β-CROWN reads another function from the file: its logits are not the net's")


def _read(result: str, log: str, status: int, seconds: float | None) -> tuple[str, dict[int, float]]:
    """Returns the verdict in the results file, or in the last line of the log that begins with "Result:"."""
    words = result.split(None, 1)[:1] or _RESULT.findall(log)[-1:]
    if not words:
        last = log.strip().splitlines()[-1:]
        raise RuntimeError(f"α,β-CROWN ended without a result, exit status {status}: {''.join(last)}")
    word = words[0].lower()
    for beginning, verdict in (("unsat", "unsat"), ("safe", "unsat"), ("sat", "sat"), ("unsafe", "sat")):
        if word.startswith(beginning):
            return verdict, {int(i): float(value) for i, value in _COORDINATE.findall(result)}
    # Of a single property it writes "timeout" for everything that it leaves unknown.
    gave_up = any(float(taken) < seconds for taken in _TIME.findall(log)[-1:])
    return ("timeout" if word.startswith("time") and not gave_up else "unknown"), {}
