"""Writes a trained net as one ONNX file: logits, prediction, certified radius, and metadata."""

import os
from pathlib import Path

from torch import nn

from linf_plugin.arguments import check_count, unwrapped
from linf_plugin.files import check_absent
from linf_plugin.models.materialised import materialise
from linf_plugin.models.net import Net
from linf_plugin.norms import as_radius

from .files.save import reseal, save
from .files.seal import seal
from .reading.recompute import contradictions
from .writing.certificate import check_certifiable, wants_interval
from .writing.compose import check_net, compose
from .writing.metadata import Accuracy, accuracy_properties, told
from .writing.record import fold_means
from .writing.settings import CERTIFICATE_CHOICES, FLAVOURS, PIXELS, RADIUS_NORMS, Settings, is_epsilon
from .writing.traced.compose import Traced, traced, why_no_radius

EXTERNAL_BYTES = 1_500_000_000  # larger weights go beside the file: a protobuf message ends at 2 GiB


def _choose(name: str, value: str, known: dict) -> None:
    if value not in known:
        raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")


def export(
    model: nn.Module,
    path: str | os.PathLike,
    metadata: dict | None = None,
    checkpoint: str | os.PathLike | None = None,
    *,
    input_shape: tuple[int, ...] | None = None,
    flavour: str = "function",
    certificate: str = "auto",
    epsilon: float | None = None,
    pixels: str = "float",
    norm: str = "linf",
    force: bool = False,
) -> None:
    """Writes a net with its certificates as an ONNX file.  The file is checked first and then moved to its place.

    The input ``x`` is raw pixels (batch, C, H, W): float32 in [0, 1], or uint8.  The outputs are:

    ``logits``            (batch, classes) float32;
    ``prediction``        (batch,) int64, the class of the largest logit, the first one of equal logits;
    ``certified_radius``  (batch,) float32 in units of x, from the net's Lipschitz bound: the float32 program predicts
                          the same class for every x′ with ‖x′ − x‖ < radius, in ℓ∞ (``certificate.radius_constants``)
                          or in ℓ2 (``radius_l2.pair_constants``).  The metadata name the norm;
    ``certified``         (batch,) bool, with an interval bound: it predicts the same class for every x′ with pixels in
                          range and ‖x′ − x‖∞ ≤ ε (``certificate.CertifiedNet``);
    ``lower``, ``upper``  (batch, classes) float32, with an interval bound of a net that is no ``Net``: they bound the
                          float32 logits of all these x′ (``traced.ends``).

    The certificates take rounding into account: each operation is in float32, and sums are in any order.  An image with
    a pixel that is out of range, NaN or infinite has radius 0 and is not certified.  The batch may have any size.

    Batch normalisation of a ``Net`` is folded into weights, and layers for training are replaced (``materialise``).  A
    net that is no ``Net`` is traced (``graphs.capture``); the file holds its operations in float32, with batch
    normalisation folded too.  The certificates are about the float32 program of the file.

    Args:
        model: in evaluation mode, with at least two classes: a ``Net``, or any module whose program can be captured.
        path: of the file; missing folders are made.  Weights above ``EXTERNAL_BYTES`` go to
            ``<path>.<digest>.data`` beside it.
        metadata: what ``linf_plugin.load`` returned; dataset, epsilon, results and so on go into the file.
        checkpoint: the file that the model comes from; its relative path and its SHA-256 go into the file.
        input_shape: of a sample, such as (C, H, W); only for a module that is no ``Net``, which has its own.
        flavour: a key of ``settings.FLAVOURS``.  Those for verifiers have batch 1 and only the output ``logits``; they
            are for a ``Net``.
        certificate: a key of ``settings.CERTIFICATE_CHOICES``.
        epsilon: ε of the interval bound, in units of the pixel range, as 0.1 or "8/255"; by default that of the
            metadata, unless these name another norm than ``norm``.
        pixels: a key of ``settings.PIXELS``: "float" or "byte".  With bytes, radii are in grey levels.
        norm: of the certified radius, a key of ``settings.RADIUS_NORMS``.  In "l2" model is a ``Net`` whose layers have
            ℓ2 Lipschitz bounds, there is no interval bound, and ε is in ℓ2.
        force: replace a file that is there.

    Raises:
        TypeError: model is no module, or has a layer or an operator that cannot be exported, or a layer without a
            bound in this norm; the message names it.  A ``Net`` has a forward of its own.
        RuntimeError: model has hooks, was compiled in place, or does not compute what was read of its program.
        ValueError: model is in training mode, is not float32, is not finite, has one class, or has a Lipschitz bound
            that is not positive and finite; it has finite p and a certificate is asked for; its batch normalisation
            cannot be folded; an activation may overflow; ``input_shape`` is missing or is not that of the net; an
            argument has an unknown value; or arguments do not fit each other.
        FileNotFoundError: checkpoint does not exist.
        WouldReplace: the file exists, and ``force`` is not set.
    """
    path, metadata = Path(path), metadata or {}
    check_absent(path, force)
    for name, value, known in (
        ("flavour", flavour, FLAVOURS),
        ("certificate", certificate, CERTIFICATE_CHOICES),
        ("pixels", pixels, PIXELS),
        ("norm", norm, RADIUS_NORMS),
    ):
        _choose(name, value, known)
    if epsilon is None and metadata.get("norm", norm) == norm:
        epsilon = metadata.get("epsilon")
    epsilon = as_radius(epsilon, "epsilon") if isinstance(epsilon, str) else epsilon
    if epsilon is not None and not is_epsilon(epsilon, norm):
        what = "lie in (0, 1], in units of the pixel range" if norm == "linf" else "be positive and finite"
        raise ValueError(f"epsilon must {what}, got {epsilon}")
    if FLAVOURS[flavour].for_verifiers:
        if certificate not in ("auto", "none") or pixels != "float" or norm != "linf":
            raise ValueError(f"flavour {flavour} is for verifiers: it has no certificates and takes no bytes")
        certificate = "none"
    net = _net(unwrapped(model), input_shape, flavour, certificate != "none")
    radius, interval = _certificates(net, certificate, epsilon, norm)
    onnx_model, props = compose(net, Settings(flavour, pixels, radius, interval, epsilon, norm))
    seal(onnx_model, props | told(metadata, checkpoint, path.parent))
    found = contradictions(onnx_model)
    if found:
        raise ValueError(f"the file could not be verified: {'; '.join(found)}")
    save(onnx_model, path, force, EXTERNAL_BYTES)


def _net(model: nn.Module, input_shape: tuple[int, ...] | None, flavour: str, certified: bool) -> Net | Traced:
    """The net as a file holds it.  Raises as ``export``."""
    if isinstance(model, Net):
        if input_shape is not None and tuple(input_shape) != model.input_shape:
            raise ValueError(f"input_shape is {tuple(input_shape)}, and model takes samples of {model.input_shape}")
        if not any(m.training for m in model.modules()):  # ``check_net`` refuses training mode by its own words
            model = materialise(model)
        check_net(model)
        if certified:
            check_certifiable(model)
        return fold_means(model)
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
    if input_shape is None:
        raise ValueError(
            f"model is a {type(model).__name__} and no linf_plugin.Net, so it does not tell the shape of a sample: "
            "give input_shape"
        )
    for size in input_shape:
        check_count("a size of input_shape", size)
    if FLAVOURS[flavour].for_verifiers:
        raise ValueError(f"flavour {flavour} is for a linf_plugin.Net: write a traced net as function or inlined")
    net = traced(model, tuple(input_shape))
    if certified:
        check_certifiable(net.graph)
    return net


def _certificates(net: Net | Traced, certificate: str, epsilon: float | None, norm: str) -> tuple[bool, bool]:
    """Whether the file gets a radius, and whether it gets an interval bound.  Raises ValueError as ``export``."""
    if norm != "linf":
        if certificate in ("none", "interval"):
            raise ValueError(f"norm {norm} is for a certified radius: certificate must be auto or lipschitz")
        certificate = "lipschitz"
    if certificate == "none":
        return False, False
    if certificate == "interval" and epsilon is None:
        raise ValueError("an interval bound needs an epsilon, and model comes without one: give epsilon")
    if isinstance(net, Net):
        return True, certificate == "interval" or (
            certificate == "auto" and epsilon is not None and wants_interval(net)
        )
    interval, reason = certificate != "lipschitz" and epsilon is not None, why_no_radius(net, norm)
    if reason is not None and not interval:
        needed = "" if certificate == "lipschitz" else "; for an interval bound give epsilon"
        raise ValueError(f"model gets no certified radius: {reason}{needed}, or export it with certificate='none'")
    return reason is None, interval


def record(path: str | os.PathLike, accuracy: Accuracy) -> None:
    """Adds the accuracies of a file to its metadata, in one move.

    Args:
        path: of the file.
        accuracy: what ``running.accuracy.measure`` returned for it.

    Raises:
        ValueError: the file was changed since it was written.
    """
    reseal(path, accuracy_properties(accuracy))
