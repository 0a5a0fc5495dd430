"""What a training step has to compute and to move, whatever computes it."""

from collections.abc import Sequence
from itertools import pairwise


def flops(batch_size: int, widths: Sequence[int]) -> int:
    """Returns the floating-point operations of a step's matrix products.

    Forward, the weights' gradients and, but for the first layer, the inputs' gradients, at two
    a multiply-add; what is linear in the widths (biases, ReLU, loss) is left out.

    Args:
      batch_size: Examples of a step.
      widths: Of the input and of every layer.
    """
    kernels = [fan_in * fan_out for fan_in, fan_out in pairwise(widths)]
    return 2 * batch_size * (3 * sum(kernels) - kernels[0])


def bytes_moved(batch_size: int, widths: Sequence[int]) -> int:
    """Returns the least bytes that a step has to read and write.

    Each uint8 image is read once; every float32 parameter is read and written once, and every
    activation written by the forward and read by the backward pass once. What a cache holds
    from one step to the next moves less through the memory.

    Args:
      batch_size: Examples of a step.
      widths: Of the input and of every layer.
    """
    parameters = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))
    return batch_size * widths[0] + 8 * parameters + 8 * batch_size * sum(widths[1:])
