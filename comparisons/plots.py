"""The picture of certified accuracy against ε; reads results only."""

from pathlib import Path

from .report import images
from .runner import eps_key

COLORS = {"linf-dist": "#d62728", "linf-dist-mlp": "#ff7f0e", "ibp": "#1f77b4", "crown-ibp": "#2ca02c"}


def certified_against_eps(results: list[dict], path: str | Path) -> None:
    """One panel a run: certified accuracy (solid) and accuracy under PGD (dashed) over ε, ε = 0 being clean."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(results), figsize=(6.4 * len(results), 4.4), squeeze=False, layout="constrained"
    )
    for axis, run in zip(axes[0], results):
        values = [0.0, *(e for e in run["eps_values"] if e > 0)]
        for key, m in run["methods"].items():
            keys = [eps_key(e) for e in values[1:]]
            certified = [m["clean"], *(m["certified"]["best"][k] for k in keys)]
            attacked = [m["clean"], *(m["pgd"][k] for k in keys)]
            color = COLORS.get(key)
            axis.plot(values, [100 * a for a in certified], "o-", color=color, label=m["label"])
            axis.plot(values, [100 * a for a in attacked], "--", color=color, linewidth=1, alpha=0.7)
        axis.axvline(run["eps"], color="0.6", linewidth=1, linestyle=":")
        axis.set(
            xlabel="ε (pixel range [0, 1])", ylabel="accuracy (%)", ylim=(0, 101), xlim=(0, None),
            title=f"{run['dataset']}, {images(run)}, seed {run['seed']}",
        )
        axis.grid(alpha=0.3)
        axis.plot([], [], "-", color="0.3", label="certified")
        axis.plot([], [], "--", color="0.3", linewidth=1, label="under PGD attack")
        axis.legend(frameon=False, fontsize=9)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)
