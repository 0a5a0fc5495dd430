"""The network of configs/cnn.py in PyTorch, eager: 500 steps, with the images in memory."""

import math

import numpy as np
import torch
from arguments import create_parser
from stopwatch import Stopwatch
from torch import nn
from torch.nn import functional

STEPS, WARMUP = 500, 100


def create_model() -> nn.Sequential:
    """Returns two convolutions with batch norm and pooling, and a hidden layer with dropout."""
    layers: list[nn.Module] = []
    for channels, features in ((1, 16), (16, 32)):
        layers += [
            nn.Conv2d(channels, features, 5, padding=2, bias=False),
            nn.BatchNorm2d(features, momentum=0.05),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    layers += [nn.Flatten(), nn.Linear(32 * 7 * 7, 128), nn.ReLU(), nn.Dropout(0.4)]
    model = nn.Sequential(*layers, nn.Linear(128, 10))
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):  # As Flax: N(0, 1/fan_in), truncated.
            # The deviation before the truncation, as of `jax.nn.initializers.lecun_normal`.
            deviation = 1 / math.sqrt(layer.weight[0].numel()) / 0.87962566103423978
            nn.init.trunc_normal_(layer.weight, 0, deviation, -2 * deviation, 2 * deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def learning_rate(step: int) -> float:
    """Returns the factor of the learning rate: a warm-up, then half a cosine."""
    if step < WARMUP:
        return step / WARMUP
    return 0.5 + 0.5 * math.cos(math.pi * (step - WARMUP) / (STEPS - WARMUP))


def random_shift(images: torch.Tensor) -> torch.Tensor:
    """Shifts each image by up to two pixels in each direction."""
    offsets = torch.randint(0, 5, (2, len(images), 1)) + torch.arange(28)
    number = torch.arange(len(images))[:, None, None]
    padded = functional.pad(images, (2, 2, 2, 2))[:, 0]
    return padded[number, offsets[0][:, :, None], offsets[1][:, None, :]][:, None]


def main() -> None:
    """Trains, reports and evaluates."""
    args = create_parser(__doc__).parse_args()
    torch.manual_seed(args.seed)
    with np.load(args.data) as arrays:
        splits = {
            name: (
                torch.from_numpy(arrays[f"{name}_image"])[:, None].float().div_(255),
                torch.from_numpy(arrays[f"{name}_label"]).long(),
            )
            for name in ("train", "test")
        }
    images, labels = splits["train"]

    model = create_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003, weight_decay=0.01, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, learning_rate)
    order = torch.randperm(len(labels))
    stopwatch = Stopwatch()
    for step in range(1, STEPS + 1):
        chosen = order[(step - 1) * 100 : step * 100]
        loss = functional.cross_entropy(model(random_shift(images[chosen])), labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"Step {step}: loss = {loss.item():.2f} ({stopwatch.lap():.3f} sec)")

    model.eval()
    images, labels = splits["test"]
    with torch.inference_mode():
        predictions = torch.cat([model(part).argmax(1) for part in images.split(1000)])
    print(stopwatch.result((predictions == labels).float().mean().item()))


if __name__ == "__main__":
    main()
