"""Writes a trained net as one ONNX file: logits, prediction, certified radius, and metadata."""

import os
from pathlib import Path

from linf_plugin.files import check_absent
from linf_plugin.models.net import Net

from .files.save import reseal, save
from .files.seal import seal
from .reading.recompute import contradictions
from .writing.certificate import PIXELS, check_certifiable, wants_interval
from .writing.compose import check_net, compose
from .writing.metadata import Accuracy, accuracy_properties, told
from .writing.record import fold_means
from .writing.settings import CERTIFICATE_CHOICES, FLAVOURS, Settings

EXTERNAL_BYTES = 1_500_000_000  # larger weights go beside the file: a protobuf message ends at 2 GiB


def _choose(name: str, value: str, known: dict) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def export(
    model: Net,
    path: str | os.PathLike,
    metadata: dict | None = None,
    checkpoint: str | os.PathLike | None = None,
    *,
    flavour: str = "function",
    certificate: str = "auto",
    epsilon: float | None = None,
    pixels: str = "float",
    force: bool = False,
) -> None:
    """Writes a net with its certificates as an ONNX file.  The file is checked first and then moved to its place.

    The input ``x`` is raw pixels (batch, C, H, W): float32 in [0, 1], or uint8.  The outputs are:

    ``logits``            (batch, classes) float32;
    ``prediction``        (batch,) int64, the class of the largest logit, the first one of equal logits;
    ``certified_radius``  (batch,) float32 in units of x, from the net's Lipschitz bound: the float32 program predicts
                          the same class for every x′ with ‖x′ − x‖∞ < radius (``certificate.radius_constants``);
    ``certified``         (batch,) bool, with an interval bound: it predicts the same class for every x′ with pixels in
                          range and ‖x′ − x‖∞ ≤ ε (``certificate.CertifiedNet``).

    The certificates take rounding into account: each operation is in float32, and sums are in any order.  An image with
    a pixel that is out of range, NaN or infinite has radius 0 and is not certified.  The batch may have any size.

    Args:
        model: in evaluation mode, with at least two classes.
        path: of the file; missing folders are made.  Weights above ``EXTERNAL_BYTES`` go to
            ``<path>.<digest>.data`` beside it.
        metadata: what ``linf_plugin.load`` returned; dataset, epsilon, results and so on go into the file.
        checkpoint: the file that the model comes from; its relative path and its SHA-256 go into the file.
        flavour: a key of ``settings.FLAVOURS``.  Those for verifiers have batch 1 and only the output ``logits``.
        certificate: a key of ``settings.CERTIFICATE_CHOICES``.
        epsilon: ε of the interval bound, in units of the pixel range; by default that of the metadata.
        pixels: a key of ``certificate.PIXELS``: "float" or "byte".  With bytes, radii are in grey levels.
        force: replace a file that is there.

    Raises:
        TypeError: model is not a ``Net``, has a layer that cannot be exported, or has a forward of its own.
        RuntimeError: model has hooks, or was compiled in place.
        ValueError: model is in training mode, is not float32, is not finite, has one class, or has a Lipschitz bound
            that is not positive and finite; it has finite p and a certificate is asked for; an activation may
            overflow; an argument has an unknown value; or arguments do not fit each other.
        FileNotFoundError: checkpoint does not exist.
        WouldReplace: the file exists, and ``force`` is not set.
    """
    path, metadata = Path(path), metadata or {}
    check_absent(path, force)
    for name, value, known in (
        ("flavour", flavour, FLAVOURS),
        ("certificate", certificate, CERTIFICATE_CHOICES),
        ("pixels", pixels, PIXELS),
    ):
        _choose(name, value, known)
    check_net(model)
    epsilon = metadata.get("epsilon") if epsilon is None else epsilon
    if epsilon is not None and not 0 < epsilon <= 1:
        raise ValueError(f"epsilon must lie in (0, 1], in units of the pixel range, got {epsilon}")
    if FLAVOURS[flavour].for_verifiers:
        if certificate not in ("auto", "none") or pixels != "float":
            raise ValueError(f"flavour {flavour} is for verifiers: it has no certificates and takes no bytes")
        certificate = "none"
    if certificate != "none":
        check_certifiable(model)
    interval = certificate == "interval" or (certificate == "auto" and epsilon is not None and wants_interval(model))
    if interval and epsilon is None:
        raise ValueError("an interval bound needs an epsilon, and model comes without one: give epsilon")
    settings = Settings(flavour, pixels, certificate != "none", interval, epsilon)
    net = fold_means(model)
    onnx_model, props = compose(net, settings)
    seal(onnx_model, props | told(metadata, checkpoint, path.parent))
    found = contradictions(onnx_model)
    if found:
        raise ValueError(f"the file could not be verified: {'; '.join(found)}")
    save(onnx_model, path, force, EXTERNAL_BYTES)


def record(path: str | os.PathLike, accuracy: Accuracy) -> None:
    """Adds the accuracies of a file to its metadata, in one move.

    Args:
        path: of the file.
        accuracy: what ``running.accuracy.measure`` returned for it.

    Raises:
        ValueError: the file was changed since it was written.
    """
    reseal(path, accuracy_properties(accuracy))
