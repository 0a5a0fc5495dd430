"""The one place that imports TensorFlow: late, quiet, and without touching a GPU."""

import os
import types


def import_tensorflow() -> types.ModuleType:
    """Imports TensorFlow for reading datasets and writing events, never for computing.

    Takes 3 to 5 s the first time, so nothing on the way to the first training step calls
    this in the main thread.
    """
    # Its start-up notices on stderr would be the first thing a user reads.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    import tensorflow as tf

    # Else it would take the whole memory of the GPU that JAX is to use (flax #445).
    tf.config.set_visible_devices([], "GPU")
    return tf
