"""Verdicts in a file, one line for each, so that an interrupted verification goes on with the next sample."""

import contextlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from linf_plugin.files import digest, write_text
from linf_plugin.norms import Ball, name_of

from .verdict import STATUSES, Verdict


def identity(model: nn.Module, x: Tensor, labels: Tensor, ball: Ball, time_limit: float, memory: int) -> str:
    """Returns a digest of all that verdicts depend on."""
    state = {
        name: value.cpu() if isinstance(value, Tensor) else repr(value) for name, value in model.state_dict().items()
    }
    about = [name_of(ball.norm), ball.eps, float(ball.low), float(ball.high), float(time_limit), memory]
    return digest({"model": str(model), "state": state, "x": x.cpu(), "labels": labels.cpu(), "about": about})


class Kept:
    """Verdicts that were given before, and those that are added.

    The first line of the file is the identity of the request.  Verdicts of another request are replaced.

    Args:
        path: of the file; None keeps nothing.
        about: what ``identity`` returned.
        shape: (*) of a sample.
    """

    def __init__(self, path: Path | None, about: str, shape: tuple[int, ...]):
        self.path, self.shape = path, shape
        self.found: dict[tuple[str, int], Verdict] = {}
        if path is None:
            return
        lines = [json.dumps({"about": about})]
        if path.is_file():
            first, *rest = path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
            for line in rest if first == lines[0] else ():
                with contextlib.suppress(ValueError, KeyError, TypeError, RuntimeError):  # a line that a kill cut off
                    self._read(json.loads(line))
                    lines.append(line)
        write_text(path, "".join(f"{line}\n" for line in lines))

    def get(self, name: str, row: int) -> Verdict | None:
        return self.found.get((name, row))

    def add(self, name: str, row: int, verdict: Verdict) -> None:
        if self.path is None:
            return
        content = {"verifier": name, "row": row, "status": verdict.status, "seconds": verdict.seconds}
        content |= {key: value for key in ("reason", "detail") if (value := getattr(verdict, key))}
        if verdict.point is not None:
            content["point"] = verdict.point.flatten().tolist()
        with open(self.path, "a", encoding="utf-8") as f:
            f.write(json.dumps(content, ensure_ascii=False) + "\n")

    def _read(self, content: dict) -> None:
        point = content.get("point")
        if point is not None:
            point = torch.tensor(point, dtype=torch.float32).reshape(self.shape)
        status, reason, detail = content["status"], content.get("reason", ""), content.get("detail", "")
        if status not in STATUSES:
            raise ValueError
        verdict = Verdict(status, float(content["seconds"]), reason, detail, point)
        self.found[content["verifier"], int(content["row"])] = verdict
