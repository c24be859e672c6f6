"""The certified radius of logits in standard ONNX, from one Lipschitz bound or from one of each pair of classes."""

import onnx
from onnxscript import opset20 as op
from onnxscript import script

from .domain import LINF

# A radius of at least LEAST, multiplied by 1 − SLACK, is not above itself after it is rounded to float32.
SLACK, LEAST = 2.0**-23, 2.0**-126


@script(LINF)
def CertifiedRadius(x, logits, lipschitz, slack, most):
    """(largest − second largest logit − slack) / (2·lipschitz), at most ``most``, rounded down.

    It is 0 where the quotient is not positive, a pixel is not in [0, 1], or a logit is not finite.
    ``certificate.radius_constants`` has the proof that it is a radius.

    The quotient is computed in float64.  The constants cover the rounding of that.  It is then lowered by 2⁻²³ of
    itself, so it does not grow when it is rounded to float32 (for numbers that float32 rounds relatively).  It is
    lowered by a difference: graph optimisers drop a factor as close to 1 as 1 − 2⁻²³.
    (N, …), (N, classes), three float64 numbers → (N,).
    """
    values, _ = op.TopK(op.Cast(logits, to=onnx.TensorProto.DOUBLE), [2])
    first, second = op.Split(values, num_outputs=2, axis=1)
    exact = op.Min((first - second - slack) / (2.0 * lipschitz), most)
    down = op.Cast(exact - exact * SLACK, to=onnx.TensorProto.FLOAT)
    outside = op.Flatten(op.Not(op.And(x >= 0.0, x <= 1.0)))
    wrong = op.Concat(outside, op.Or(op.IsNaN(logits), op.IsInf(logits)), axis=1)
    right = op.ReduceSum(op.Cast(wrong, to=onnx.TensorProto.FLOAT), [1]) == 0.0
    radius = op.Squeeze(op.Where(op.And(right, exact >= LEAST), down, 0.0), [1])
    return radius


@script(LINF)
def PairwiseRadius(x, logits, prediction, bounds, centre, slack, slope, most):
    """The least (logit_y − logit_j − slack − slope·‖x − centre‖₂) / bound_j over j ≠ y, at most ``most``, rounded down.

    y is the prediction.  The radius is 0 where the least quotient is not positive, a pixel is not in [0, 1], or a logit
    is not finite.  ``radius_l2.pair_constants`` has the proof that it is a radius in ℓ2.

    Everything is computed in float64, and the result is lowered and rounded as that of ``CertifiedRadius``.  At the
    prediction itself the quotient is replaced by ``most``.
    (N, …), (N, classes), (N,) int64, (N or 1, classes or 1) and (…) float64, three float64 numbers → (N,).
    """
    z = op.Cast(logits, to=onnx.TensorProto.DOUBLE)
    own = op.Unsqueeze(prediction, [1])
    ahead = op.GatherElements(z, own, axis=1) - z
    moved = op.Flatten(op.Cast(x, to=onnx.TensorProto.DOUBLE) - centre)
    distance = op.Sqrt(op.ReduceSum(moved * moved, [1]))
    quotients = (ahead - (slack + slope * distance)) / bounds
    classes = op.Range(0, op.Squeeze(op.Shape(logits, start=1, end=2)), 1)
    least = op.ReduceMin(op.Where(op.Equal(classes, own), most, quotients), [1])
    exact = op.Min(least, most)
    down = op.Cast(exact - exact * SLACK, to=onnx.TensorProto.FLOAT)
    outside = op.Flatten(op.Not(op.And(x >= 0.0, x <= 1.0)))
    wrong = op.Concat(outside, op.Or(op.IsNaN(logits), op.IsInf(logits)), axis=1)
    right = op.ReduceSum(op.Cast(wrong, to=onnx.TensorProto.FLOAT), [1]) == 0.0
    radius = op.Squeeze(op.Where(op.And(right, exact >= LEAST), down, 0.0), [1])
    return radius
