"""The certified radius of logits, in standard ONNX."""

import onnx
from onnxscript import opset20 as op
from onnxscript import script

from .domain import LINF

# Of radii: 1 − SLACK outweighs the rounding of numbers from LEAST on to float32.
SLACK, LEAST = 2.0**-23, 2.0**-126


@script(LINF)
def CertifiedRadius(x, logits, lipschitz, slack, most):
    """(largest − second largest logit − slack) / (2·lipschitz), at most ``most``, rounded down; 0 where that is
    not positive, a pixel is not in [0, 1] or a logit is not finite.

    ``certificate.radius_constants`` says what makes it a radius.  The quotient is taken in float64, whose rounding
    the constants cover; less 2⁻²³ of itself, it stays below itself when rounded to float32, as long as float32
    rounds relatively.  Graph optimisers drop a factor as close to 1 as 1 − 2⁻²³, hence the difference.
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
