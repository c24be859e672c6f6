"""The results of a run, as typed objects.  ``file`` reads and writes them."""

import math
from dataclasses import dataclass, field, replace

from linf_plugin.datasets import DIGESTS, SOURCES

from ..certificates import BEST

NO_RECIPE = ""  # the recipe of nets that the harness did not train


@dataclass(frozen=True)
class AttackSettings:
    """An attack of a run.  norm: exponent of its norm.  arguments: as the recipe gives them."""

    norm: float
    arguments: dict


@dataclass(frozen=True)
class Certified:
    """What one certificate proves.

    norm: exponent of the norm of its balls.  failure: the probability that it is wrong about an image, 0 for a
    theorem.  accuracy: ε → fraction of the images that it certifies.
    """

    norm: float
    failure: float
    accuracy: dict[float, float]


@dataclass(frozen=True)
class VerifierResult:
    """What one complete verifier said.

    verified, falsified: rows of images, from 0.  unknown: reason, a key of ``REASONS`` → rows.  seconds: of all
    questions.  refused: why it does not take the net, so that nothing was asked.
    """

    verified: tuple[int, ...] = ()
    falsified: tuple[int, ...] = ()
    unknown: dict[str, tuple[int, ...]] = field(default_factory=dict)
    seconds: float = 0.0
    refused: str | None = None

    @property
    def undecided(self) -> int:
        return sum(map(len, self.unknown.values()))

    @property
    def asked(self) -> int:
        return len(self.verified) + len(self.falsified) + self.undecided


@dataclass(frozen=True)
class VerificationResult:
    """What complete verifiers said about the first images, in the order in which they were asked.

    eps: of the balls.  time_limit: seconds for each question.  samples: how many images were looked at.  certified,
    broken: how many of these a theorem certifies; how many others are misclassified or broken by an attack.
    asks_certified: whether certified images were asked about too.  contradictions: rows of images that were falsified
    although a theorem certifies them.  verifiers: name → what it said about the images that those before it left
    unknown.
    """

    eps: float
    time_limit: float
    samples: int
    certified: int
    broken: int
    asks_certified: bool
    contradictions: tuple[int, ...]
    verifiers: dict[str, VerifierResult]


@dataclass(frozen=True)
class Identity:
    """The facts that identify figures, besides the digests of the data.

    Figures are kept only if these facts agree, and averaged only if they agree except for the seed.  settings: digest
    of all that the recipe says about the method.  earlier: digests that earlier versions wrote for the same settings.
    changed: the settings of the whole run that differ from those of the recipe's file.
    """

    seed: int | None
    settings: str | None = None
    recipe: str | None = None
    dataset: str | None = None
    method: str | None = None
    held_out: float | None = None
    budget: float | None = None
    earlier: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Training:
    """How a method was trained.

    seconds: time of all epochs and validations.  select: part of the training set that chose the model.  chosen,
    validation: its choice, and the figures behind it.  ``None``: not known, as everything is of a net that someone
    else trained.
    """

    epochs: int | None = None
    seconds_per_epoch: float | None = None
    seconds: float | None = None
    images_per_second: float | None = None
    peak_memory_mib: float | None = None
    loss: tuple[float, ...] = ()
    schedule: dict | None = None
    select: float | None = None
    chosen: dict | None = None
    validation: tuple[dict, ...] = ()


@dataclass(frozen=True)
class Step:
    """What one method of a cascade did at one ε.

    tried: how many images it was tried on, those that the methods before it had left.  certified: how many of these it
    certified.
    """

    method: str
    tried: int
    certified: int
    seconds: float


@dataclass(frozen=True)
class MethodResult:
    """The figures of one method.

    kind: row of ``METHODS``.  clean: fraction of the images that are classified correctly.  attacked: name of an
    attack → ε → fraction that is still correct after it and those before it in the recipe.  certified: name of a
    certificate → what it proves, or a certificate that it contains; ``BEST`` counts an image if any theorem certifies
    it.  contradictions: how often an attack broke an image that a theorem certified, over all images and ε; today a
    run stops at the first one.  broken: the same count for each certificate that may fail, by name.  pairs_per_sample:
    coordinate pairs in the forward pass of one sample, None if they are not known.  verification: what complete
    verifiers said, if they were asked.  data: name and digests.  settings: all that the recipe said about the method,
    with every default.  cascade: ε → its steps, if each image was certified by the cheapest method only.  about: the
    function that the certificates are about, in words, if the harness did not build the net.  more: unknown keys of
    the file.

    A record of how the figures came about, which earlier versions did not write: architecture: the spec of the net, if
    the harness built it.  seconds: name of a certificate or an attack → its seconds over all ε.  date: when the
    measuring ended, in UTC, as 2026-01-31T12:00:00Z.  processor: its name.  commit: of the package's source; None if it
    was no git checkout.
    """

    kind: str
    label: str
    clean: float
    attacked: dict[str, dict[float, float]]
    certified: dict[str, Certified]
    contradictions: int
    parameters: int
    pairs_per_sample: int | None
    certify_seconds: float
    training: Training
    identity: Identity
    broken: dict[str, int] = field(default_factory=dict)
    attack_seconds: float | None = None
    verification: VerificationResult | None = None
    device: str | None = None
    versions: dict | None = None
    checkpoint: str | None = None
    data: dict | None = None
    settings: dict | None = None
    cascade: dict[float, tuple[Step, ...]] = field(default_factory=dict)
    about: str = ""
    architecture: dict | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    date: str | None = None
    processor: str | None = None
    commit: str | None = None
    samples: str | None = None
    points: str | None = None
    broken_by: dict[str, int] = field(default_factory=dict)
    trials: int | None = None
    more: dict = field(default_factory=dict)

    @property
    def digests(self) -> tuple[str, str] | None:
        """The digests of the data behind the figures.  Versions that wrote none could only use published data."""
        if self.data is not None:
            return tuple(self.data[key] for key in DIGESTS)
        dataset = self.identity.dataset
        return SOURCES[dataset].published if dataset in SOURCES else None

    def proved(self, eps: float) -> float:
        """Returns the fraction of the images that some theorem certifies at ε."""
        return self.certified[BEST].accuracy[eps]


@dataclass(frozen=True)
class Results:
    """The results of a run.

    recipe: its name, or ``NO_RECIPE``.  changed: the settings that differ from those of the recipe's file, as lines of
    TOML.  norm: exponent of the norm of its balls.  eps: the headline; eps_values: the
    curve; both in units of the pixel range.  held_out: part of the training set that was measured on instead of the
    test set.  shape: of a sample, (C, H, W) or (F,); None in files of versions that knew only images.
    """

    recipe: str
    dataset: str
    eps: float
    eps_values: tuple[float, ...]
    attacks: dict[str, AttackSettings]
    seed: int
    test_samples: int
    device: str
    norm: float = math.inf
    held_out: float = 0.0
    description: str = ""
    train_samples: int | None = None
    shape: tuple[int, ...] | None = None
    versions: dict | None = None
    changed: tuple[str, ...] = ()
    methods: dict[str, MethodResult] = field(default_factory=dict)
    more: dict = field(default_factory=dict)

    @property
    def thing(self) -> str:
        """What readers call a sample: "image", or "sample" if it is a row of numbers."""
        return "image" if self.shape is None or len(self.shape) == 3 else "sample"

    @property
    def contradictions(self) -> int:
        """How many certificates of theorems an attack or a complete verifier contradicts."""
        found = (m.verification for m in self.methods.values() if m.verification is not None)
        return sum(m.contradictions for m in self.methods.values()) + sum(len(v.contradictions) for v in found)

    def with_methods(self, methods: dict[str, MethodResult]) -> "Results":
        return replace(self, methods=methods)


def with_changes(recipe: str, changed: tuple[str, ...]) -> str:
    """Returns the name of a recipe, with the settings that differ from its file."""
    return recipe + f" with {', '.join(changed)}" * bool(changed)


def same_settings(entries: list[MethodResult]) -> list[tuple]:
    """Returns a key for each entry.  Two keys are equal if recipe, settings and data are equal; seeds may differ.

    Some versions wrote different digests of the same settings.  An entry with both digests shows that they are equal.
    """
    newer = {old: m.identity.settings for m in entries for old in m.identity.earlier}
    return [
        (
            replace(m.identity, seed=None, earlier=(), settings=newer.get(m.identity.settings, m.identity.settings)),
            m.digests,
        )
        for m in entries
    ]
