"""The certified radius of logits in standard ONNX."""

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
