"""The tutorial's job in PyTorch, eager or compiled: float tensors in memory, no DataLoader.

To be run in an environment without TensorFlow: `torch.utils.tensorboard` would import it.
"""

import math

import numpy as np
import torch
from arguments import create_parser
from stopwatch import Stopwatch
from torch import nn
from torch.nn import functional
from torch.utils.tensorboard import SummaryWriter


def create_model() -> nn.Sequential:
    """Returns the network with the tutorial's initial weights."""
    model = nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 10)
    )
    for layer in model:
        if isinstance(layer, nn.Linear):
            deviation = 1 / math.sqrt(layer.in_features)
            nn.init.trunc_normal_(layer.weight, 0, deviation, -2 * deviation, 2 * deviation)
            nn.init.zeros_(layer.bias)
    return model


@torch.inference_mode()
def count_correct(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> int:
    """Returns the number of images that the model classifies correctly."""
    batches = zip(images.split(5000), labels.split(5000), strict=True)
    return sum(int((model(image).argmax(1) == label).sum()) for image, label in batches)


def main() -> None:
    """Trains, reports, evaluates and saves."""
    parser = create_parser(__doc__)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    with np.load(args.data) as arrays:
        splits = {
            name: (
                torch.from_numpy(arrays[f"{name}_image"]).flatten(1).float().div_(255),
                torch.from_numpy(arrays[f"{name}_label"]).long(),
            )
            for name in ("train", "validation", "test")
        }
    images, labels = splits["train"]

    model = create_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, fused=True)
    writer = SummaryWriter(args.workdir)
    args.workdir.mkdir(exist_ok=True)

    def loss_fn(image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        return functional.cross_entropy(model(image), label)

    compute_loss = torch.compile(loss_fn) if args.compile else loss_fn
    update = torch.compile(optimizer.step) if args.compile else optimizer.step

    order = torch.randperm(len(labels))
    start = 0
    stopwatch = Stopwatch()
    for step in range(1, 2001):
        chosen = order[start : start + 100]
        start += 100
        if missing := 100 - len(chosen):
            order = torch.randperm(len(labels))
            chosen = torch.cat([chosen, order[:missing]])
            start = missing

        loss = compute_loss(images[chosen], labels[chosen])
        optimizer.zero_grad()
        loss.backward()
        update()

        if step % 100:
            continue
        value = loss.item()
        print(f"Step {step}: loss = {value:.2f} ({stopwatch.lap():.3f} sec)")
        writer.add_scalar("loss", value, step)
        if step % 1000:
            continue
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step}
        torch.save(state, args.workdir / f"checkpoint-{step}.pt")
        for name, (image, label) in splits.items():
            correct = count_correct(model, image, label)
            print(f"{name}: {correct} of {len(label)}, precision {correct / len(label):.4f}")
        stopwatch.restart()
    writer.close()
    print(stopwatch.result(correct / len(label)))


if __name__ == "__main__":
    main()
