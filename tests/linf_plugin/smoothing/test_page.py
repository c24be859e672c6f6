"""The tables of docs/smoothing.md are what the functions give."""

import math
import re
from pathlib import Path

import pytest
from scipy import stats

from linf_plugin.smoothing import lower, several_radius, upper
from linf_plugin.volumes import overlap, overlap_bound

PAGE = (Path(__file__).parents[3] / "docs" / "smoothing.md").read_text(encoding="utf-8")
P0, SIGMA0, DRAWS, ALPHA = 0.8, 0.5, 100_000, 0.001


def rows(header: str) -> list[list[str]]:
    body = PAGE.split(header, 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in body]


BALLS = rows("| d | σ_1 | radius, exact probabilities")
SHARED = rows("| d | | part that is shared")


@pytest.mark.parametrize("row", BALLS, ids=lambda row: f"{row[0]}-{row[1]}")
def test_radii_of_a_ball(row):
    d, sigma1, (exact, counted, true) = int(row[0]), float(row[1]), row[2:]
    radius = SIGMA0 * math.sqrt(stats.chi2.ppf(P0, d))
    p1 = stats.chi2.cdf((radius / sigma1) ** 2, d)
    found = several_radius({SIGMA0: (P0, P0), sigma1: (p1, p1)}, d)
    assert found == pytest.approx(float(exact), abs=1e-3)  # the search ends a little elsewhere on another machine
    ends = {}
    for sigma, p in ((SIGMA0, P0), (sigma1, p1)):
        k = round(p * DRAWS)
        ends[sigma] = float(lower(k, DRAWS, ALPHA / 4)), float(upper(k, DRAWS, ALPHA / 4))
    assert several_radius(ends, d) == pytest.approx(float(counted), abs=5e-3)
    at_border = stats.ncx2.cdf((radius / SIGMA0) ** 2, d, (float(true) / SIGMA0) ** 2)
    assert at_border == pytest.approx(0.5, abs=1e-4)


def logarithm(text: str) -> float:
    """The logarithm to the base 10 of "0.909" or "10^−20.9"."""
    power = re.fullmatch(r"10\^−([0-9.]+)", text)
    return -float(power[1]) if power else math.log10(float(text))


@pytest.mark.parametrize("row", SHARED, ids=lambda row: row[0])
def test_shared_parts_of_two_balls(row):
    tolerance = 0.051 if "^" in row[2] else 2e-3  # half of the last digit
    assert overlap(int(row[0])) == pytest.approx(logarithm(row[2]), abs=tolerance)
    assert overlap_bound(int(row[0])) == pytest.approx(logarithm(row[3]), abs=tolerance)


def test_the_page_has_both_tables():
    assert len(BALLS) == 6 and len(SHARED) == 7
