"""Writes a checkpoint as a problem for the verifier α,β-CROWN: a Python file and a YAML file.

The verifier loads both files by itself.  So this module needs neither the verifier nor auto_LiRPA.
"""

import os
from decimal import Decimal
from pathlib import Path

import torch

from linf_plugin import checkpoint as checkpoints
from linf_plugin.datasets import SOURCES, check_test_data, load_dataset, own_name
from linf_plugin.files import check_absent, write_text
from linf_plugin.layers.base import distance_layers
from linf_plugin.norms import as_radius

PROBLEM, CONFIG = "problem.py", "config.yaml"
# The verifier computes its box in float32, with three roundings of numbers up to 1, each by at most 2⁻²⁵.
BOX_SLACK = 2.0**-23

_PROBLEM = '''\
"""The net and the images for α,β-CROWN.  It calls ``model`` and ``data``, which {config} names."""

from pathlib import Path

import torch

import linf_plugin
import linf_plugin.bounds  # gives auto_LiRPA its bounds for distance layers
from linf_plugin.datasets import load_dataset

HERE = Path(__file__).parent
CHECKPOINT = HERE / {checkpoint!r}
DATASET, FOLDER, SAMPLES = {dataset!r}, {folder}, {samples}
OWN_NAME = {own!r}  # the name of the data, where they are not those published for DATASET
DIGEST = {digest!r}  # of the test images

# The verifier computes its box in float32, with three roundings of numbers up to 1, each by at most 2⁻²⁵.
BOX_SLACK = {slack!r}


def model():
    """Pixels in [0, 1] → logits."""
    net, _ = linf_plugin.load(CHECKPOINT)
    return net.to(torch.get_default_dtype())


def data(spec):
    """Images (N, C, H, W), labels, the largest and the least pixel, and an ε with which no box is too small."""
    test = load_dataset(DATASET, FOLDER, OWN_NAME)
    if test.digests[1] != DIGEST:
        raise ValueError("the test images are not those for which this problem was written")
    x, y = test.x_test[:SAMPLES], test.y_test[:SAMPLES]
    one = torch.ones(1, 1, 1, 1)
    return x, y, one, 0 * one, (spec["epsilon"] + BOX_SLACK) * one
'''

_CONFIG = """\
# python abcrown.py --config {config}
general:
  device: {device}
  double_fp: true  # the certificate is about the exact function of the weights, up to float64 rounding
  complete_verifier: {verifier}
model:
  name: 'Customized("{problem}", "model")'
data:
  dataset: 'Customized("{problem}", "data")'
  num_outputs: {classes}
specification:
  norm: .inf
  epsilon: {eps}  # of the pixel range [0, 1]
solver:
{solver}"""

# First the better one of linear and interval bounds is taken, because linear bounds can be the looser ones.  If this
# decides nothing, α-CROWN goes on.  Its linear bounds may begin behind the interval bounds, so it must not stop while
# nothing improves.  The verifier makes weights for intermediate bounds and does not optimise them, so they are shared.
_DISTANCE_SOLVER = """\
  bound_prop_method: alpha-crown
  early_stop_patience: 50
  crown:
    compare_crown_with_ibp: true
  alpha-crown:
    iteration: 50
    lr_alpha: 0.5
    share_alphas: true
"""

# kind of net → (complete verifier, solver)
SOLVER_SETTINGS = {
    "distance": ("skip", _DISTANCE_SOLVER),  # branching on neurons fails: distance layers have no neurons to split
    "ordinary": ("bab", "  bound_prop_method: alpha-crown\n"),
}


def _relative(path: str | os.PathLike, folder: Path) -> str:
    return Path(os.path.relpath(os.path.realpath(path), os.path.realpath(folder))).as_posix()


@torch.no_grad()
def write_abcrown(
    checkpoint: str | os.PathLike,
    folder: str | os.PathLike,
    eps: float,
    *,
    dataset: str | None = None,
    data_dir: str | os.PathLike | None = None,
    samples: int = 100,
    force: bool = False,
) -> tuple[Path, Path]:
    """Writes ``problem.py`` and ``config.yaml``.  ``python abcrown.py --config …/config.yaml`` then verifies.

    The problem says: no change of at most eps in each pixel, within [0, 1], changes the prediction of one of the first
    test images.  The paths of checkpoint and data are relative to the folder, so all of them may move together.

    Args:
        checkpoint: the file of a ``Net``.
        folder: for the two files; it is made if it is missing.
        eps: in units of the pixel range, in (0, 1].
        dataset: a key of ``SOURCES``; by default the one that the checkpoint names.  If the checkpoint is of your own
            data, it is the one whose layout they have.
        data_dir: the folder with the files of the data set, if it needs one.
        samples: how many test images.
        force: replace the two files if they exist.

    Returns:
        The paths of the Python file and of the YAML file.

    Raises:
        FileNotFoundError: the checkpoint or a file of the data set is missing.
        WouldReplace: one of the two files exists, and ``force`` is not set.
        ValueError: eps or samples are out of range; the file is not a checkpoint or names no data set; the images do
            not fit the net, or are not those that the checkpoint names.
    """
    eps = as_radius(eps) if isinstance(eps, str) else eps
    if not 0 < eps <= 1:
        raise ValueError(f"eps must lie in (0, 1], in units of the pixel range, got {eps}")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    model, metadata = checkpoints.load(checkpoint)
    name = dataset or metadata.get("dataset")
    if name not in SOURCES:
        known = ", ".join(SOURCES)
        raise ValueError(
            f"{checkpoint} names no data set: give one of {known}"
            if name is None
            else f"data set must be one of {known}, got {name!r}"
        )
    own = own_name(metadata)
    data = load_dataset(name, data_dir, own)
    if dataset is None or own is not None:
        check_test_data(data, metadata, checkpoint)
    if data.shape != model.input_shape:
        raise ValueError(f"the net takes images of shape {model.input_shape}, those of {name} have {data.shape}")
    if samples > len(data.x_test):
        raise ValueError(f"samples must be at most the {len(data.x_test)} test images of {name}, got {samples}")
    folder = Path(folder)
    problem, config = paths = folder / PROBLEM, folder / CONFIG
    for path in paths:
        check_absent(path, force)

    verifier, solver = SOLVER_SETTINGS["distance" if distance_layers(model) else "ordinary"]
    needs_folder = SOURCES[name].files and data_dir is not None
    write_text(
        problem,
        _PROBLEM.format(
            config=CONFIG,
            checkpoint=_relative(checkpoint, folder),
            dataset=name,
            own=own,
            digest=data.digests[1],
            folder=f"HERE / {_relative(data_dir, folder)!r}" if needs_folder else None,
            samples=samples,
            slack=BOX_SLACK,
        ),
    )
    write_text(
        config,
        _CONFIG.format(
            config=CONFIG,
            problem=PROBLEM,
            device="cuda" if torch.cuda.is_available() else "cpu",
            verifier=verifier,
            classes=model(data.x_test[:1].to(next(model.parameters()).dtype)).shape[1],
            eps=format(Decimal(repr(float(eps))), "f"),  # YAML reads 1e-05 as a string
            solver=solver,
        ),
    )
    return paths
