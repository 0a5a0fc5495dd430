import jax
from ml_collections import ConfigDict

from mnist_jax.models import create_model
from mnist_jax.tasks import Classification
from mnist_jax.train_step import TrainState, create_train_state


def batch(size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes of a batch of MNIST's images."""
    return {
        "image": jax.ShapeDtypeStruct((size, 28, 28), "uint8"),
        "label": jax.ShapeDtypeStruct((size,), "int32"),
    }


def create_state(
    config: ConfigDict, num_classes: int = 10, image_shape: tuple[int, ...] = (28, 28)
) -> TrainState:
    """The state at step 0 of the model that the config names."""
    model, example = (
        create_model(config, num_classes),
        jax.ShapeDtypeStruct(image_shape, "uint8"),
    )
    return create_train_state(config, model, Classification(), example)
