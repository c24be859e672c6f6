"""Bounds of the cross-entropy while a net trains, through auto_LiRPA: intervals (IBP), CROWN-IBP, its fused loss."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from linf_plugin.intervals import interval
from linf_plugin.layers.activations import ParamRamp
from linf_plugin.layers.lipschitz import flat_layers

Box = tuple[Tensor, Tensor]  # lower and upper ends of inputs, (N, *) each

LEAST_SHARE = 1e-5  # below this share of CROWN-IBP in a mixture, only the interval bound is computed


class Bounds:
    """The cross-entropy of a net, and a bound of it over a box, from bounds of the margins.

    auto_LiRPA reads the net once.  Its form of the net runs in training mode and shares parameters and buffers.

    Args:
        model: the net, in evaluation mode.
        example: inputs (N, C, H, W) or (N, F).
        classes: number of logits.
    """

    def __init__(self, model: nn.Module, example: Tensor, classes: int):
        from linf_plugin.bounds.training import for_training

        self.classes, self.net = classes, for_training(model, example, device=example.device, verbose=False)

    def entropies(self, x: Tensor, labels: Tensor, box: Box, share: float) -> tuple[Tensor, Tensor]:
        """Returns the mean cross-entropy at x, and an upper bound of its mean over the box.

        Normalisations by the batch use the statistics of x in both, and move their running ones once.

        Args:
            x: (N, *).
            labels: (N,).
            box: the ends of the inputs.
            share: of CROWN-IBP in the bound; the rest is the interval bound.
        """
        logits = self.net(_ball(x, box))
        return F.cross_entropy(logits, labels), worst_cross_entropy(self._margins(labels, share))

    def _margins(self, labels: Tensor, share: float) -> Tensor:
        """Returns lower bounds of z_y − z_j for j ≠ y over the last box: (N, classes − 1)."""
        from linf_plugin.bounds import specification

        C = specification(labels, self.classes)
        bound, _ = self.net.compute_bounds(C=C, method="IBP", bound_upper=False)
        if share < LEAST_SHARE:
            return bound
        linear, _ = self.net.compute_bounds(C=C, method="CROWN-IBP", bound_upper=False)
        return share * linear + (1 - share) * bound

    def logits(self, model: nn.Module, x: Tensor) -> Tensor:
        """Returns the logits of the net at other inputs, as the function that the last call of ``entropies`` bounds.

        Normalisations by the batch use the statistics of that call and keep their running ones.  With the statistics of
        other inputs they would be another function, and the running ones would fit neither.

        Args:
            model: the net that ``entropies`` bounds.
            x: (N, *).
        """
        statistics = self._statistics()
        layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        training = [layer.training for layer in layers]
        hooks = [layer.register_forward_hook(_with(*statistics[id(layer.running_mean)])) for layer in layers]
        try:
            for layer in layers:
                layer.eval()
            return model(x)
        finally:
            for layer, hook, before in zip(layers, hooks, training):
                hook.remove()
                layer.train(before)

    def _statistics(self) -> dict[int, tuple[Tensor, Tensor]]:
        """Returns the means and variances of the last batch, by which buffer of running means they move."""
        from auto_LiRPA.bound_ops import BoundBatchNormalization

        nodes = [node for node in self.net.modules() if isinstance(node, BoundBatchNormalization)]
        return {id(node.inputs[3].buffer): (node.current_mean, node.current_var) for node in nodes}

    def hidden(self) -> tuple[Box, list[Box]]:
        """Returns the ends of the input of the first layer with weights, and of the input of each ReLU, by intervals.

        They are those of the last call of ``entropies``.
        """
        from auto_LiRPA.bound_ops import BoundConv, BoundLinear, BoundRelu

        nodes = list(self.net.modules())
        first = next(node for node in nodes if isinstance(node, (BoundConv, BoundLinear)))
        relus = [node.inputs[0] for node in nodes if isinstance(node, BoundRelu)]
        return _ends(first.inputs[0]), [_ends(node) for node in relus]


class FusedBounds(Bounds):
    """The same with the loss as the last part of the net: Xu et al. (arXiv 2002.12920), section 3.3.

    It bounds Σ_j exp(z_j − z_y) at once instead of each margin, so CROWN-IBP costs the same for any number of classes.
    """

    def __init__(self, model: nn.Module, example: Tensor, classes: int):
        from linf_plugin.bounds.training import for_training  # makes auto_LiRPA importable: it comes first

        from auto_LiRPA import CrossEntropyWrapper  # isort: skip

        inputs = (example, torch.zeros(len(example), dtype=torch.long, device=example.device))
        options = {"bound_opts": {"loss_fusion": True}, "device": example.device, "verbose": False}
        self.net = for_training(CrossEntropyWrapper(model).eval(), inputs, **options)

    def entropies(self, x: Tensor, labels: Tensor, box: Box, share: float) -> tuple[Tensor, Tensor]:
        clean = self._entropy(self.net(_ball(x, box), labels))
        _, bound = self.net.compute_bounds(method="IBP", bound_lower=False)
        if share >= LEAST_SHARE:
            _, linear = self.net.compute_bounds(method="CROWN-IBP", bound_lower=False)
            bound = share * linear + (1 - share) * bound
        return clean, self._entropy(bound)

    def _entropy(self, sums: Tensor) -> Tensor:
        """Returns the mean of log Σ_j exp(z_j − z_y), given the sums, from which auto_LiRPA leaves out a factor."""
        from auto_LiRPA.bound_ops import BoundExp

        exponential = next(node for node in self.net.modules() if isinstance(node, BoundExp))
        return (sums.log() + exponential.max_input).mean()


class BoxBounds:
    """Interval bounds by this package instead of auto_LiRPA, for a sequence of layers that ends with a linear one.

    They follow what changes in a layer while the net trains, such as the leak of ``ParamRamp``.  auto_LiRPA has it as a
    constant.
    """

    def __init__(self, model: nn.Module):
        *self.layers, self.last = flat_layers(model)
        self.first: Box | None = None
        self.ends: list[Box] = []

    def entropies(self, x: Tensor, labels: Tensor, box: Box, share: float) -> tuple[Tensor, Tensor]:
        """As ``Bounds.entropies``, without linear bounds.  Raises TypeError for a layer without a rule in training."""
        self.first, self.ends = None, []
        for layer in self.layers:
            if self.first is None and isinstance(layer, (nn.Linear, nn.Conv2d)):
                self.first = box
            if isinstance(layer, (nn.ReLU, ParamRamp)):
                self.ends.append(box)
            x, box = layer(x), interval(layer, box)
        middle, radius = (box[0] + box[1]) / 2, (box[1] - box[0]) / 2
        rows = self.last.weight.unsqueeze(0) - self.last.weight[labels].unsqueeze(1)  # (N, classes, in)
        offset = self.last.bias.unsqueeze(0) - self.last.bias[labels].unsqueeze(1)
        worst = (rows @ middle.unsqueeze(2) + rows.abs() @ radius.unsqueeze(2)).squeeze(2) + offset
        return F.cross_entropy(self.last(x), labels), F.cross_entropy(worst, labels)

    def hidden(self) -> tuple[Box, list[Box]]:
        """As ``Bounds.hidden``."""
        return self.first or self.ends[0], self.ends


def _ball(x: Tensor, box: Box):
    from auto_LiRPA import BoundedTensor, PerturbationLpNorm

    return BoundedTensor(x, PerturbationLpNorm(norm=math.inf, x_L=box[0], x_U=box[1]))


def _with(mean: Tensor, variance: Tensor) -> Callable[[nn.Module, tuple[Tensor], Tensor], Tensor]:
    """Returns a hook that normalises by these statistics, (C,) each, and passes gradients to them."""

    def normalise(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
        scale = layer.weight / (variance + layer.eps).sqrt()
        offset = layer.bias - mean * scale
        shape = (1, -1) + (1,) * (output.dim() - 2)
        return inputs[0] * scale.view(shape) + offset.view(shape)

    return normalise


def _ends(node) -> Box:
    return node.interval[0], node.interval[1]


def worst_cross_entropy(margins: Tensor) -> Tensor:
    """Returns the mean cross-entropy of logits whose margins are these lower bounds, (N, classes − 1)."""
    worst = torch.cat([margins.new_zeros(len(margins), 1), -margins], 1)
    return F.cross_entropy(worst, torch.zeros(len(margins), dtype=torch.long, device=margins.device))
