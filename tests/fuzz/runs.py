"""The ways in which a net is run: by PyTorch, and by onnxruntime if it can be exported."""

import random

import torch
from torch import Tensor

from linf_plugin.float32 import reach as reading
from onnx_export.running.verify import verify_content

from .claims import FILE, Ball, Subject
from .exported import OWN, Exported, draw_exported, onnx_file
from .families import FAMILIES
from .program import Program, draw_program
from .tally import Tally

UNLIKE = 1e-3  # a file whose logits differ from those of the net by more than this part computes another function
EXPORTED = 0.4  # the share of batches of points that onnxruntime computes, if it can


class Runs:
    """The ways in which a net is run: by PyTorch, and by onnxruntime if it can be exported."""

    def __init__(self, subject: Subject, tally: Tally):
        self.subject, self.tally = subject, tally
        self.exporters = FAMILIES[subject.case.family].exporters
        self.files: dict[str, bytes | None] = {}
        self.unlike: list[dict] = []

    def draw(self, r: random.Random) -> tuple[Program | Exported, object]:
        """A way to run the net, and the function that does so."""
        case = self.subject.case
        program, exported = draw_program(r), draw_exported(r, *([self.exporters] if self.exporters else []))
        if not self.exporters or r.random() > EXPORTED:
            return program, lambda x: program.run(case.net, x)
        session = self.session(exported)
        if session is None:
            return program, lambda x: program.run(case.net, x)
        return exported, lambda x: exported.logits(session, x)

    def session(self, exported: Exported):
        """A session that computes the function of the net; None if there is none."""
        case = self.subject.case
        try:
            if exported.exporter not in self.files:
                self.files[exported.exporter] = None
                self.files[exported.exporter] = onnx_file(case.net, case.x, exported.exporter)
            if self.files[exported.exporter] is None:
                return None
            session = exported.session(self.files[exported.exporter])
            z = exported.logits(session, case.x)
        except Exception as error:  # exporters and onnxruntime raise errors of many types
            self.tally.add(case, unexported=1)
            self.unlike.append({"kind": case.kind, "why": f"{type(error).__name__}: {str(error).strip()[:200]}"})
            return None
        if not self._alike(z):
            self.files[exported.exporter] = None
            self.tally.add(case, unlike=1)
            self.unlike.append({"kind": case.kind, "why": "other", "program": exported.describe()})
            return None
        return session

    @torch.no_grad()
    def _alike(self, z: Tensor) -> bool:
        """Whether logits at x are those of the net, up to any rounding."""
        case = self.subject.case
        y, exact = case.net(case.x.clone()), self.subject.exact(case.x.double())
        if z.shape != y.shape:
            return False
        error = reading.reach(self.subject.exact, case.x.double(), case.x.double()).error
        near = (z - y).abs() <= UNLIKE * y.abs().amax(1, keepdim=True)
        return bool((near | ((z - exact).abs() <= error) | ~y.isfinite()).all())

    def filed(self, r: random.Random) -> tuple[Exported, Tensor, Ball, list[str]] | None:
        """The balls of the radii that a file of this package states, and what ``verify`` finds wrong with the file.

        Returns:
            (how the file was run, its logits at x, balls, failures); None if there is no such file.
        """
        case, exported = self.subject.case, draw_exported(r, tuple(OWN))
        session = self.session(exported)
        if session is None:
            return None
        z, radii = exported.radii(session, case.x)
        labels = z.argmax(1)
        found = verify_content(self.files[exported.exporter], "net.onnx", case.x, labels, "cpu", progress=False)
        return exported, z, self.subject.within_radii(radii, labels, FILE), found.failures
