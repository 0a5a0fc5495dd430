"""Evaluates the tutorial's network on all 70,000 images, by PyTorch or Keras 3 on JAX.

The weights are random, and saved before the measurement: what is measured restores them.
"""

import itertools
import json
import os
from pathlib import Path

import numpy as np
from arguments import create_parser

SIZES = (784, 128, 32, 10)


def evaluate_by_torch(path: str, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the loss and the accuracy, by a loop over batches."""
    import torch
    from torch import nn

    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(SIZES):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    if not Path(path).exists():
        torch.save(model.state_dict(), path)
    model.load_state_dict(torch.load(path))
    batches = zip(
        torch.from_numpy(images).flatten(1).split(1000),
        torch.from_numpy(labels).long().split(1000),
        strict=True,
    )
    loss, correct = 0.0, 0
    with torch.inference_mode():
        for image, label in batches:
            logits = model(image.float().div_(255))
            loss += float(nn.functional.cross_entropy(logits, label, reduction="sum"))
            correct += int((logits.argmax(1) == label).sum())
    return loss / len(labels), correct / len(labels)


def evaluate_by_keras(path: str, images: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Returns the loss and the accuracy, by `evaluate`."""
    os.environ["KERAS_BACKEND"] = "jax"
    import keras

    if not Path(path).exists():
        hidden = [keras.layers.Dense(size, "relu") for size in SIZES[1:-1]]
        scaled = keras.layers.Rescaling(1 / 255)
        inputs = [keras.Input((28, 28)), scaled, keras.layers.Flatten()]
        model = keras.Sequential([*inputs, *hidden, keras.layers.Dense(SIZES[-1])])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(loss=loss, metrics=["accuracy"])
        model.save(path)
    model = keras.models.load_model(path)
    return tuple(model.evaluate(images, labels, batch_size=1000, verbose=0))


def main() -> None:
    """Prints the loss and the accuracy of each split."""
    parser = create_parser(__doc__)
    parser.add_argument("--model", required=True, help="file of the weights: .pt or .keras")
    args = parser.parse_args()
    is_torch = args.model.endswith(".pt")
    with np.load(args.data) as arrays:
        for split in ("train", "validation", "test"):
            images, labels = arrays[f"{split}_image"], arrays[f"{split}_label"]
            evaluate = evaluate_by_torch if is_torch else evaluate_by_keras
            print(split, *evaluate(args.model, images, labels))
    print(json.dumps({}))


if __name__ == "__main__":
    main()
