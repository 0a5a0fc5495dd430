"""The arithmetic and the memory traffic that a training step needs at least."""

from collections.abc import Sequence
from itertools import pairwise


def flops(batch_size: int, widths: Sequence[int]) -> int:
    """Returns the floating-point operations of a step's matrix products.

    For each layer the forward product, the product for the gradient of the weights and, except
    for the first layer, the product for the gradient of the inputs. A multiply-add counts as
    two; biases, ReLU and loss, which are linear in the widths, are not counted.

    Args:
      batch_size: Examples per step.
      widths: Widths of the input and of every layer.
    """
    kernels = [fan_in * fan_out for fan_in, fan_out in pairwise(widths)]
    return 2 * batch_size * (3 * sum(kernels) - kernels[0])


def bytes_moved(batch_size: int, widths: Sequence[int]) -> int:
    """Returns the number of bytes that a step reads and writes at least.

    Each uint8 image is read once, each float32 parameter is read once and written once, and
    each activation is written once (forward) and read once (backward). Values that stay in a
    cache from one step to the next cause less traffic than this.

    Args:
      batch_size: Examples per step.
      widths: Widths of the input and of every layer.
    """
    activations = batch_size * sum(widths[1:])
    return batch_size * widths[0] + 8 * num_params(widths) + 8 * activations


def num_params(widths: Sequence[int]) -> int:
    """Returns the number of parameters, with biases; `widths` are as in `flops`."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(widths))
