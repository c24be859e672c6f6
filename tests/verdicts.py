"""A verdict of Marabou on one image, as plain data."""


def verdict_on(inside: str = "unsat", beyond: str | None = "sat", **more) -> dict:
    return {
        "row": 0,
        "label": 1,
        "radius": 0.1,
        "promised": 0.01,
        "exact": {"lower": 0.1, "upper": 0.1, "status": "optimal"},
        "inside": {"eps": 0.099, "verdict": inside, "seconds": 0.5} | more,
        "beyond": None if beyond is None else {"eps": 0.101, "verdict": beyond, "seconds": 2.0, "margin": -2e-7},
    }
