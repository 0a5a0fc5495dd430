"""Small datasets that tensorflow-datasets prepares from generated examples."""

import gzip
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds


def write_idx(path: Path, array: np.ndarray) -> None:
    """Writes an array of bytes in MNIST's own format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def prepare_small(name: str, data_dir: Path, file_format: str = "tfrecord") -> list[dict]:
    """Prepares 12 training and 2 test examples of each class.

    Returns:
      The training examples, in the order of the original files.
    """
    builder = tfds.builder(name, data_dir=data_dir, file_format=file_format)
    features = builder.info.features
    num_classes, shape = features["label"].num_classes, features["image"].shape
    rng = np.random.default_rng(0)

    def examples(per_class: int) -> list[dict]:
        return [
            {"image": rng.integers(0, 256, shape, np.uint8), "label": i % num_classes}
            | {key: str(i) for key in features if key == "id"}
            for i in range(per_class * num_classes)
        ]

    train, test = examples(12), examples(2)
    with pytest.MonkeyPatch.context() as patch:
        splits = {"train": list(enumerate(train)), "test": list(enumerate(test))}
        patch.setattr(type(builder), "_split_generators", lambda self, manager: splits)
        builder.download_and_prepare()
    return train
