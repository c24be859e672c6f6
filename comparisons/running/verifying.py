"""Asks complete verifiers about the images that certificates and attacks leave undecided."""

from pathlib import Path

import torch
from torch import Tensor, nn

from linf_plugin.norms import Ball

from ..results.schema import VerificationResult, VerifierResult
from ..verifiers.request import Request
from ..verifiers.verdict import FALSIFIED, UNKNOWN, VERIFIED, Verdict
from ..verifiers.verify import verify


def verified(
    request: Request,
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    ball: Ball,
    certified: Tensor,
    survives: Tensor,
    *,
    kept: Path | None = None,
    description: str = "",
    progress: bool = True,
) -> VerificationResult:
    """Asks the verifiers of a request about the first images, and returns what results say about it.

    A verifier that does not take the model is left out, and the result says why.

    Args:
        model, x, labels, ball: as for ``verify``.
        certified: (N,) bool, the images that theorems about the float32 program certify for this ball.
        survives: (N,) bool, the images that are classified correctly, and that no attack in this ball broke.
        kept, description, progress: as for ``verify``.

    Raises:
        TypeError, ValueError, ImportError, FileNotFoundError: as ``verify``.
    """
    certified, survives = certified.to(x.device), survives.to(x.device)
    first = torch.arange(len(x), device=x.device) < request.samples
    asked = first & survives & (~certified | request.certified)
    found = verify(
        request.methods,
        model,
        x,
        labels,
        ball,
        asked,
        time_limit=request.time_limit,
        memory=request.bytes,
        kept=kept,
        strict=False,
        description=description,
        progress=progress,
    )
    return VerificationResult(
        eps=ball.eps,
        time_limit=request.time_limit,
        samples=int(first.sum()),
        certified=int((first & certified).sum()),
        broken=int((first & ~survives & ~certified).sum()),
        asks_certified=request.certified,
        contradictions=tuple(found.contradictions(certified)),
        verifiers={
            name: VerifierResult(refused=found.refused[name])
            if name in found.refused
            else _counted(found.verdicts[name])
            for name in found.names
        },
    )


def _counted(verdicts: dict[int, Verdict]) -> VerifierResult:
    def rows(status: str, reason: str = "") -> tuple[int, ...]:
        return tuple(row for row, v in verdicts.items() if (v.status, v.reason) == (status, reason))

    reasons = dict.fromkeys(v.reason for v in verdicts.values() if v.status == UNKNOWN)
    return VerifierResult(
        verified=rows(VERIFIED),
        falsified=rows(FALSIFIED),
        unknown={reason: rows(UNKNOWN, reason) for reason in reasons},
        seconds=sum(v.seconds for v in verdicts.values()),
    )
