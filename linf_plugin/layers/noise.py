"""Layers that add random noise at each call, in training and in evaluation mode.

Lécuyer et al. (arXiv 1802.03471) and Pinot et al. (arXiv 1902.01148) put such a layer at the input or between layers.
The net then gives a random class, and what is known of it holds with a probability or in expectation:
``linf_plugin.smoothing.noise``.  No statement without a probability holds, so the tables of rules refuse these layers.
"""

import torch
from torch import Tensor

from ..arguments import check_not_negative
from ..state import Constants

# Where a table has no row for such a layer.
DRAWS = "it draws noise at each call, so only certificates with a probability hold (linf_plugin.smoothing)"


class Noise(Constants):
    """The base of layers that add independent noise to each value.

    The noise comes from PyTorch's default generator of the device, so ``torch.manual_seed`` fixes it.  It depends on
    the shape of the input, and not on its strides.  A layer of size 0 returns its input and draws nothing.

    Raises (at a call):
        TypeError: x is not a floating-point tensor.
    """

    size_name = ""  # the attribute that says how large the noise is

    def __init__(self, size: float):
        check_not_negative(self.size_name, size)
        super().__init__()
        setattr(self, self.size_name, float(size))

    def forward(self, x: Tensor) -> Tensor:
        if not isinstance(x, Tensor) or not x.is_floating_point():
            raise TypeError(f"x must be a floating-point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
        size = getattr(self, self.size_name)
        return x if size == 0 else x + size * self.unit(x)

    def unit(self, x: Tensor) -> Tensor:
        """Returns noise of size 1, in the shape, the dtype and on the device of x."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"{self.size_name}={getattr(self, self.size_name):g}"


class GaussianNoise(Noise):
    """Adds noise from N(0, sigma²) to each value.

    Args:
        sigma: standard deviation, finite and at least 0, in units of the input.

    Shape: (N, *) → the same.  No Lipschitz bound is known: two calls at one input differ.

    Raises:
        TypeError, ValueError: sigma is not as described.
    """

    compared = ("sigma",)
    size_name = "sigma"

    def __init__(self, sigma: float):
        super().__init__(sigma)

    def unit(self, x: Tensor) -> Tensor:
        return torch.randn(x.shape, dtype=x.dtype, device=x.device)


class LaplaceNoise(Noise):
    """Adds noise with the density e^{−|t|/scale}/(2·scale) to each value.  Its standard deviation is √2·scale.

    Args:
        scale: finite and at least 0, in units of the input.

    Shape: (N, *) → the same.  No Lipschitz bound is known: two calls at one input differ.

    Raises:
        TypeError, ValueError: scale is not as described.
    """

    compared = ("scale",)
    size_name = "scale"

    def __init__(self, scale: float):
        super().__init__(scale)

    def unit(self, x: Tensor) -> Tensor:
        first, second = (torch.empty(x.shape, dtype=x.dtype, device=x.device).exponential_() for _ in range(2))
        return first - second  # of two exponential variables; a logarithm of a uniform one could be infinite


class UniformNoise(Noise):
    """Adds noise that is uniform in [−radius, radius] to each value.  Its standard deviation is radius/√3.

    Args:
        radius: finite and at least 0, in units of the input.

    Shape: (N, *) → the same.  No Lipschitz bound is known: two calls at one input differ.

    Raises:
        TypeError, ValueError: radius is not as described.
    """

    compared = ("radius",)
    size_name = "radius"

    def __init__(self, radius: float):
        super().__init__(radius)

    def unit(self, x: Tensor) -> Tensor:
        return 2 * torch.rand(x.shape, dtype=x.dtype, device=x.device) - 1
