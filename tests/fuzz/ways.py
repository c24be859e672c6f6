"""Ways from inputs to where a sequential net bends, and down its margins: hints where an ℓ2 ball may be broken."""

import torch
from torch import Tensor, nn

from linf_plugin.layers.activations import MaxMin
from linf_plugin.layers.lipschitz import flat_layers
from linf_plugin.layers.potential import Potential

from .ball import like
from .sphere import FAR

MOST_KINKS = 8  # units whose kinks are looked for


def _bending(net: nn.Module, h: Tensor) -> Tensor | None:
    """(N, K): values of the first layer that bends, which does so where one of them is 0; None if no layer does."""
    for layer in flat_layers(net):
        if isinstance(layer, Potential):
            return layer.branch()[0](h).flatten(1)
        if isinstance(layer, nn.ReLU):
            return h.flatten(1)
        if isinstance(layer, MaxMin):
            return (h[:, ::2] - h[:, 1::2]).flatten(1)
        h = layer(h)
    return None


def ways(net: nn.Module, x: Tensor) -> Tensor:
    """(K, N, *) float64 steps from x: down each margin of the predicted class, far, and to kinks of the first layer
    that bends.  Before that layer the net is linear, so these steps end at kinks, and are the shortest ones.

    net: in float64.
    """
    with torch.enable_grad():
        leaf = x.double().requires_grad_()
        z, bending = net(leaf.clone()), _bending(net, leaf.clone())

        def gradient(a: Tensor) -> Tensor:
            (g,) = torch.autograd.grad(a.sum(), leaf, retain_graph=True, allow_unused=True)
            return torch.zeros_like(leaf) if g is None else g.nan_to_num(0.0, 0.0, 0.0)

        first, *others = z.gather(1, z.argsort(1, descending=True)).unbind(1)
        slopes = [gradient(other - first) for other in others]
        chosen = [] if bending is None else torch.randperm(bending.shape[1])[:MOST_KINKS].tolist()
        values = [bending[:, k] for k in chosen]
        normals = [gradient(a) for a in values]
    found = [FAR * g / _length(g) for g in slopes]
    found += [-like(a.detach(), x) / _length(g) * (g / _length(g)) for a, g in zip(values, normals)]
    return torch.stack(found)


def _length(a: Tensor) -> Tensor:
    length = torch.linalg.vector_norm(a.flatten(1), dim=1)
    return like(torch.where(length > 0, length, 1.0), a)
