"""What is measured of a net."""

from dataclasses import dataclass

from ..certificates import check_norms, symbol_of_norm
from ..methods.parts import ATTACKING
from ..verifiers.request import Request


@dataclass(frozen=True)
class Asked:
    """What is measured of a net.

    eps_values: the headline first.  norm: exponent.  methods: certificates; for a given net empty for the usual ones.
    sound: whether they cover rounding.  attacks: tables {"name": …, arguments…}, in the order in which they are tried.
    seed: of the attacks.  batch_size: as ``certify`` takes it.  verify: what complete verifiers are asked at the
    headline ε, or None; for a given net its samples are those that are measured.

    Raises:
        ValueError: a certificate or an attack is about balls of another norm.
    """

    eps_values: tuple[float, ...]
    norm: float
    methods: tuple[str, ...]
    sound: bool
    attacks: tuple[dict, ...]
    seed: int
    batch_size: int | None = None
    verify: Request | None = None

    def __post_init__(self):
        check_norms(self.methods, self.norm)
        for name in (table["name"] for table in self.attacks):
            if (norm := ATTACKING.registry[name].norm) != self.norm:
                moved, balls = symbol_of_norm(norm), symbol_of_norm(self.norm)
                raise ValueError(f"the attack {name} moves samples in {moved}, and the balls are those of {balls}")
