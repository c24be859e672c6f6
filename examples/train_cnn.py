"""Trains a small CNN with BatchNorm on digits, in plain PyTorch, and saves it: as .pt, as .safetensors and as ONNX.

It takes a few seconds on one CPU core.  Then `linf-compare certify` takes the net from its function and its weights,
or from the ONNX file:

    python examples/train_cnn.py --out results/cnn
    linf-compare certify --model examples/train_cnn.py:net --weights results/cnn/cnn.pt --data digits --eps 0.02,0.05
    linf-compare certify --onnx results/cnn/cnn.onnx --data digits --eps 0.02,0.05
"""

import argparse
from pathlib import Path

import torch
from torch import nn

from linf_plugin.datasets import load_dataset


def net() -> nn.Module:
    """Returns the net with its first weights.  `--model examples/train_cnn.py:net` calls this function."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 4, stride=2, padding=1),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * 4 * 4, 10),
    )


def train(model: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, eps: float) -> None:
    """Trains on images that one step of the sign of the gradient has moved by eps: so certificates prove more."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 5e-3, total_steps=epochs * -(-len(x) // 64))
    loss_of = nn.CrossEntropyLoss()
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(x)).split(64):
            images = x[rows].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(loss_of(model(images), y[rows]), images)
            moved = (images + eps * gradient.sign()).clamp(0, 1).detach()
            loss = loss_of(model(moved), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"\repoch {epoch + 1} of {epochs}, loss {total / len(x):.3f}", end="", flush=True)
    print()


def save(model: nn.Module, x: torch.Tensor, folder: Path) -> None:
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "cnn.pt")
    save_file(model.state_dict(), folder / "cnn.safetensors")
    batch = torch.export.Dim("batch")
    torch.onnx.export(
        model, (x[:2],), folder / "cnn.onnx", dynamic_shapes=({0: batch},), external_data=False, verbose=False
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("results/cnn"), metavar="DIR", help="default: results/cnn")
    parser.add_argument("--epochs", type=int, default=15, metavar="N", help="default: 15")
    parser.add_argument("--eps", type=float, default=0.05, metavar="E", help="of training; default: 0.05")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    data, model = load_dataset("digits"), net()
    train(model, data.x_train, data.y_train, args.epochs, args.eps)
    model.eval()
    with torch.no_grad():
        clean = (model(data.x_test).argmax(1) == data.y_test).double().mean().item()
    save(model, data.x_train, args.out)
    print(f"{100 * clean:.2f} % of the test images are classified correctly")
    print(f"{args.out}: cnn.pt, cnn.safetensors, cnn.onnx")


if __name__ == "__main__":
    main()
