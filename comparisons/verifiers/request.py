"""What a recipe asks of complete verifiers: its table ``[verify]``."""

from dataclasses import dataclass

from linf_plugin.arguments import check_count, check_positive

from .complete import verifier_of


@dataclass(frozen=True)
class Request:
    """Which verifiers are asked about which images, at the headline ε.

    methods: keys of ``COMPLETE``, in the order in which they are asked.  time_limit: seconds for each question.
    samples: the first images of the test set; those that theorems and attacks leave undecided are asked about.
    memory: GiB for the process of a verifier.  certified: whether to ask also about the images that theorems certify,
    to check the certificates.

    Raises:
        ValueError: methods is empty or has an unknown or repeated name; another field is not positive.
    """

    methods: tuple[str, ...]
    time_limit: float = 60.0
    samples: int = 100
    memory: float = 4.0
    certified: bool = False

    def __post_init__(self):
        for name in self.methods:
            verifier_of(name, "methods")
        if not self.methods or len(set(self.methods)) < len(self.methods):
            raise ValueError(f"methods must have at least one name, and none twice, got {list(self.methods)}")
        check_positive("time_limit", self.time_limit)
        check_count("samples", self.samples)
        check_positive("memory", self.memory)

    @property
    def bytes(self) -> int:
        return int(self.memory * 2**30)
