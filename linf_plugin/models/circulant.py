"""The architecture of diagonal-circulant layers.  The function returns a spec."""

from .parts import append, features, hidden_layer, start


def circulant_mlp(
    shape,
    classes: int,
    depth: int,
    activation: str = "relu",
    normalized: bool = False,
    mean=(0.0,),
    std=1.0,
    crop: int = 0,
) -> dict:
    """(depth − 1) × [diagonal-circulant layer, activation], then one with ``classes`` rows.

    Araujo et al. (arXiv 1901.10255).  For n pixels it has 3·n·(depth − 1) + n + 2·classes parameters.  If the layers
    are normalised to be 1-Lipschitz in ℓ2, pixels are only shifted, because a scale would change the Lipschitz bound.
    """
    spec = start(shape, mean, 1.0 if normalized else std, crop)
    append(spec, "flatten")
    arguments = {"features": features(spec), "normalized": normalized}
    for _ in range(depth - 1):
        append(spec, "diagonal_circulant", **arguments)
        hidden_layer(spec, False, activation)
    append(spec, "diagonal_circulant", **arguments, out_features=classes)
    return spec
