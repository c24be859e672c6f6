"""Certifies and attacks a given net, and writes results.json as a run does."""

import hashlib
import json
import re
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from linf_plugin import checkpoint
from linf_plugin.certificates.problem import Problem
from linf_plugin.datasets import DIGESTS, Dataset
from linf_plugin.files import WouldReplace
from linf_plugin.norms import Ball
from linf_plugin.progress import hidden

from ..certificates import BEST, name_of_norm, usual
from ..methods.parts import ATTACKING, arguments_of
from ..results import file
from ..results.schema import (
    NO_RECIPE,
    AttackSettings,
    Certified,
    Identity,
    MethodResult,
    Results,
    Training,
    VerificationResult,
)
from ..results.settings import changes, few, plain_data
from ..verifiers.complete import check_installed
from .asked import Asked
from .contradiction import check_contradictions
from .given import GivenNet, check_runs
from .machine import commit, device_name, now, processor_name, versions
from .measure import BLOCK, measure
from .per_sample import PerSample, from_plain, joined, share
from .plan import facts_of_all, results_in
from .rows import write_rows
from .verdicts import Verdicts, verdicts_at
from .verifying import verified

KIND = "given"
PART = 2 * BLOCK  # samples between two writes of the state
UNSOUND = "rounding not covered"
TEST = DIGESTS[1]  # only the test part of the data is used


def certify_net(
    net: GivenNet,
    data: Dataset,
    out: Path,
    asked: Asked,
    *,
    label: str | None = None,
    samples: int | None = None,
    device: str = "cpu",
    resume: bool = False,
    force: bool = False,
    progress: bool = True,
) -> tuple[Results, str, dict[float, Verdicts]]:
    """Certifies and attacks a net on a test set, and adds it to the results in a folder.

    Results of other given nets in the folder stay.  The work goes to ``out/NAME.state.pt`` part by part, so that
    ``resume`` goes on from the last finished part.  What is known of each sample goes to ``out/NAME.samples.csv`` and
    ``out/NAME.points.npz``.  Verdicts of complete verifiers, with the points that they found, go to
    ``out/NAME.verdicts.jsonl``.

    Args:
        net: from ``given``.
        data: its test part is used.
        out: folder; it is made if missing.
        asked: what is measured.
        label: the name of the net in tables.
        samples: only the first so many of the test set.
        device: "cpu" or "cuda".
        resume, force, progress: as ``run``.

    Returns:
        The results in the folder; the name of the net there; and ε → the verdicts on the samples, empty if the folder
        had the net finished.

    Raises:
        WouldReplace: the folder holds other work on a net of this name; nothing was done.
        Contradiction: the attack broke a sample that a theorem certifies; the results of other nets stay.
        TypeError, ValueError, RuntimeError: as ``certify``; the net cannot run on the samples; or the folder holds
            results that would share a table with these and do not fit there.
        ImportError, FileNotFoundError: a verifier is not installed; nothing was done.
    """
    if asked.verify is not None:
        check_installed(asked.verify.methods)
    label = (label or net.label) + ("" if asked.sound else f" ({UNSOUND})")
    where = torch.device(device)
    x, y = data.x_test[:samples].to(where), data.y_test[:samples].to(where)
    net.model.to(where)
    check_runs(net, x, y)
    about = None
    if not asked.methods:
        with _without_cudnn():
            about = _about(net, x, y, asked)
            asked = replace(asked, methods=usual(about))
    ours = _empty(data, asked, len(x), device_name(where))
    work = _Work(out, _key(label), ours, _settings(net, asked, len(x)), data.identity)
    there = work.there(resume, force)
    if work.is_done(there) and (resume or not force):
        print(f"{label}: already in {out / file.FILE}", file=sys.stderr)
        return there, work.key, {}
    parts = work.parts(there, resume, force)
    starts = range(0, len(x), PART)
    with _without_cudnn():
        for start in tqdm(starts, desc=f"{label}: certify, attack", disable=hidden(progress), unit="part"):
            if str(start) not in parts:
                rows, about = slice(start, start + PART), about or _about(net, x, y, asked)
                parts[str(start)] = _measured(net, x[rows], y[rows], asked, start, progress, about).plain()
                work.keep(parts)
        found = joined([from_plain(parts[str(start)]) for start in starts])
        check_contradictions(found, net.model, x, out, work.key, seed=asked.seed, recipe=NO_RECIPE)
        verdicts = {eps: verdicts_at(found, eps, bool(asked.attacks)) for eps in asked.eps_values}
        said = _verification(net, x, y, verdicts[asked.eps_values[0]], asked, label, work, progress)
    entry = replace(
        _entry(net, label, found, verdicts, asked, said, work),
        **write_rows(out, work.key, found, x, asked.eps_values[0]),
    )
    return work.finish(entry, resume, force), work.key, verdicts


def _about(net: GivenNet, x: Tensor, y: Tensor, asked: Asked) -> Problem:
    """Returns a problem whose Lipschitz bounds all parts share: spectral norms of wide layers take seconds."""
    return Problem(net.model, x[:1], y[:1], Ball(0.0, asked.norm, 0.0, 1.0), asked.sound)


def _measured(
    net: GivenNet, x: Tensor, y: Tensor, asked: Asked, first: int, progress: bool, about: Problem
) -> PerSample:
    shown = not hidden(progress)
    try:
        return measure(net.model, x, y, asked, first=first, cascade=True, progress=shown, before=about)
    except (LookupError, AttributeError, AssertionError, NotImplementedError) as error:
        if asked.sound:
            raise
        # Without a bound of the rounding, auto_LiRPA gets operators about which it may raise anything.
        names = ", ".join(asked.methods)
        raise ValueError(f"{names} cannot bound this net: {type(error).__name__}: {error}") from error


def _without_cudnn():
    """Keeps cuDNN away: no bound of the rounding of its fast convolutions is known."""
    return torch.backends.cudnn.flags(enabled=False)


def _verification(
    net: GivenNet, x: Tensor, y: Tensor, found: Verdicts, asked: Asked, label: str, work: "_Work", progress: bool
) -> VerificationResult | None:
    """Asks complete verifiers about the samples that certificates and the attack leave undecided at the headline ε."""
    if asked.verify is None:
        return None
    ball, request = Ball(asked.eps_values[0], asked.norm, 0.0, 1.0), replace(asked.verify, samples=len(x))
    survives = found.correct if found.survives is None else found.correct & found.survives
    options = {"kept": work.said, "description": f"{label}:", "progress": progress}
    return verified(request, net.model, x, y, ball, found.proved(), survives, **options)


@dataclass(frozen=True)
class _Work:
    """The work on one net in a folder.

    key: the name of the net there.  ours: the results of this call, without a method.  settings: all on which the
    figures depend, except the data.  data: their name and digests.
    """

    out: Path
    key: str
    ours: Results
    settings: dict
    data: dict

    @property
    def state(self) -> Path:
        return self.out / f"{self.key}.state.pt"

    @property
    def said(self) -> Path:
        """The file with the verdicts of complete verifiers."""
        return self.out / f"{self.key}.verdicts.jsonl"

    def there(self, resume: bool, force: bool) -> Results | None:
        """Returns the results in the folder; None if it has none, or if ``force`` replaces what cannot be read.

        Raises ValueError if other nets there cannot share a table with this one.
        """
        try:
            found = results_in(self.out)
        except ValueError as error:
            if resume or not force:
                raise
            print(f"replaced: {error}", file=sys.stderr)
            return None
        for name, m in {} if found is None else found.methods.items():
            differing = changes(_facts(found, m.data or self.data), _facts(self.ours, self.data))
            if name != self.key and differing:
                raise ValueError(
                    f"{self.out} has {name} of another call ({few(differing)}), which cannot share a table with this "
                    "net: choose another folder"
                )
        return found

    def changed(self, entry: MethodResult) -> list[str]:
        old, new = ({TEST: data[TEST]} for data in (entry.data or self.data, self.data))
        return changes(entry.settings, self.settings) + changes(old, new)

    def is_done(self, there: Results | None) -> bool:
        return there is not None and self.key in there.methods and not self.changed(there.methods[self.key])

    def parts(self, there: Results | None, resume: bool, force: bool) -> dict:
        """Returns the finished parts of an interrupted call with which ``resume`` goes on.

        Raises WouldReplace if work on this net would be lost, without ``force``.
        """
        kept, lost = self._kept(), []
        if there is not None and self.key in there.methods:
            lost.append(f"finished, with other settings ({few(self.changed(there.methods[self.key]))})")
        if self.state.exists() and not (resume and kept is not None):
            lost.append("interrupted" + ("" if kept is not None else ", with other settings"))
        if lost and not force:
            raise WouldReplace(
                f"{self.out} holds work that would be replaced: {self.key} ({'; '.join(lost)})", kept is not None
            )
        if not resume:
            self.said.unlink(missing_ok=True)
        return dict(kept or {}) if resume else {}

    def _kept(self) -> dict | None:
        try:
            content = checkpoint.read(self.state)
            if content["settings"] != self.settings or content["data"] != self.data:
                return None
            return {start: from_plain(part).plain() for start, part in content["parts"].items()}
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            return None

    def keep(self, parts: dict) -> None:
        checkpoint.write(self.state, {"settings": self.settings, "data": self.data, "parts": parts})

    def finish(self, entry: MethodResult, resume: bool, force: bool) -> Results:
        """Writes the results, with those of other nets, which another call may have written meanwhile."""
        there = self.there(resume, force)
        results = replace(self.ours, methods={**({} if there is None else there.methods), self.key: entry})
        file.write(self.out / file.FILE, results)
        self.state.unlink(missing_ok=True)
        return results


def _key(label: str) -> str:
    """The name of a net in results and of its files.  Raises ValueError if the label does not fit a table."""
    if not label.isprintable() or "|" in label or not label.strip():
        raise ValueError(f"the name of a net must be one line without |, got {label!r}")
    return re.sub(r"[^\w-]+", "-", label).strip("-")[:60] or "net"


def _settings(net: GivenNet, asked: Asked, samples: int) -> dict:
    """All on which the figures depend, except the data."""
    v = asked.verify
    return plain_data(
        {
            "net": net.source,
            "norm": name_of_norm(asked.norm),
            "eps_values": asked.eps_values,
            "methods": asked.methods,
            "sound": asked.sound,
            "attack": ATTACKING.filled(asked.attacks[0]) if asked.attacks else None,
            "seed": asked.seed,
            "samples": samples,
            **({} if v is None else {"verify": {key: vars(v)[key] for key in ("methods", "time_limit", "certified")}}),
        }
    )


def _facts(r: Results, data: dict) -> dict:
    facts = facts_of_all(r.recipe, r.dataset, r.norm, r.eps, r.eps_values, r.attacks, r.seed, r.held_out)
    return facts | {"test_samples": r.test_samples, "test_part": r.train_samples != 0, TEST: data[TEST]}


def _empty(data: Dataset, asked: Asked, samples: int, device: str) -> Results:
    attacks = {
        table["name"]: AttackSettings(ATTACKING.registry[table["name"]].norm, arguments_of(table))
        for table in asked.attacks
    }
    return Results(
        recipe=NO_RECIPE,
        description="nets that were given to linf-compare certify",
        dataset=data.name,
        norm=asked.norm,
        eps=asked.eps_values[0],
        eps_values=tuple(sorted(asked.eps_values)),
        attacks=attacks,
        seed=asked.seed,
        train_samples=len(data.x_train),
        test_samples=samples,
        shape=data.shape,
        versions=versions(),
        device=device,
    )


def _entry(
    net: GivenNet,
    label: str,
    found: PerSample,
    verdicts: dict[float, Verdicts],
    asked: Asked,
    said: VerificationResult | None,
    work: _Work,
) -> MethodResult:
    eps_values, seconds = asked.eps_values, found.certify_seconds()
    settings_sha256 = hashlib.sha256(json.dumps(work.settings, sort_keys=True).encode()).hexdigest()
    return MethodResult(
        kind=KIND,
        label=label,
        clean=share(found.correct),
        attacked=found.attacked(list(work.ours.attacks), eps_values),
        certified={BEST: Certified(asked.norm, 0.0, {eps: share(found.best() >= eps) for eps in eps_values})},
        contradictions=0,
        broken=found.broken_though_certified(eps_values),
        broken_by=found.broken_by(eps_values[0]),
        parameters=net.parameters,
        pairs_per_sample=net.pairs_per_sample,
        certify_seconds=sum(seconds.values()),
        attack_seconds=sum(found.attack_seconds.values()),
        verification=said,
        training=Training(),
        identity=Identity(asked.seed, settings_sha256, NO_RECIPE, work.ours.dataset, work.key, 0.0),
        device=work.ours.device,
        versions=work.ours.versions,
        data=work.data,
        settings=work.settings,
        cascade={eps: at.steps for eps, at in verdicts.items()},
        about=net.sentence(asked.sound),
        seconds={**found.attack_seconds, **seconds},
        date=now(),
        processor=processor_name(),
        commit=commit(),
    )
