"""Confidence intervals and tests of accuracies.  All of them are exact, and scipy computes them."""

from collections.abc import Sequence

from linf_plugin import extras

LEVEL = 0.95  # of confidence intervals


def _binomtest():
    with extras.named("compare"):  # scipy alone would be in another extra
        from scipy.stats import binomtest

    return binomtest


def interval(fraction: float, samples: int) -> tuple[float, float]:
    """Returns the 95 % Clopper–Pearson interval of an accuracy, as fractions.

    With a probability of at least 95 % over the choice of the test samples, it contains the accuracy over all samples
    of the distribution (Clopper and Pearson, 1934, Biometrika 26, 404–413).  It says nothing about other trainings.

    Args:
        fraction: part of the samples, in [0, 1]; the nearest k/samples for a whole number k is taken.
        samples: how many there are, at least 1.

    Raises:
        ValueError: an argument is out of its range.
    """
    if samples < 1 or not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in [0, 1] and samples be at least 1, got {fraction} and {samples}")
    found = _binomtest()(round(fraction * samples), samples).proportion_ci(LEVEL, method="exact")
    return float(found.low), float(found.high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the p-value of McNemar's exact test of two methods on the same samples, two-sided.

    If both methods certify with the same probability, each sample that only one of them certifies is as likely to be
    the first's as the second's.  So ``only_first`` is binomial with probability 1/2 among the discordant samples, and
    the exact binomial test of this is McNemar's exact test (Fagerland, Lydersen and Laake, 2013, BMC Medical Research
    Methodology 13:91, "the exact conditional test").

    Args:
        only_first, only_second: how many samples only the first, and only the second, certifies.
    """
    discordant = only_first + only_second
    return float(_binomtest()(only_first, discordant, 0.5).pvalue) if discordant else 1.0


def holm(values: Sequence[float]) -> list[float]:
    """Returns p-values that are corrected for their number by Holm's method (1979, Scand. J. Statist. 6, 65–70).

    The k-th smallest of m values, from 0, is multiplied by m − k; none is smaller than that of a smaller value.
    """
    found, least = [0.0] * len(values), 0.0
    for k, i in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        least = max(least, min(1.0, (len(values) - k) * values[i]))
        found[i] = least
    return found
