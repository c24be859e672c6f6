"""Trains a narrow ResNet-18 on digits, in plain PyTorch, so that it can be certified, and saves it.

The net has torchvision's layers: a 7×7 convolution, a max pool, four stages of two blocks with BatchNorm and a
shortcut, a mean over the pixels and a linear layer.  It has 8 instead of 64 channels in the first stage.  The digits
have 8×8 pixels.  The net itself makes 32×32 of them, so ε is about the pixels of the data.

Eighteen layers can make a small perturbation a billion times larger, as far as interval bounds can tell, and then
nothing is certified at any useful ε.  The training therefore has a penalty on this growth (``ResNet18.growth``).  It
takes less than half a minute on two CPU cores.  `linf-compare certify` then takes the net as it is:

    python examples/resnet18.py --out results/resnet18
    linf-compare certify --model examples/resnet18.py:net --weights results/resnet18/net.pt --data digits --eps 0.002
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from linf_plugin.datasets import load_dataset

WIDTH = 8  # channels of the first stage; torchvision's net has 64


def spread(conv: nn.Conv2d, norm: nn.BatchNorm2d, radii: Tensor) -> Tensor:
    """Returns the radii of a convolution's outputs behind BatchNorm, given those of its inputs: (1, C, H, W) each."""
    scale = norm.weight.abs() / (norm.running_var + norm.eps).sqrt()
    return F.conv2d(radii, conv.weight.abs(), None, conv.stride, conv.padding) * scale.view(1, -1, 1, 1)


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut, which is a 1×1 convolution where the shape changes."""

    def __init__(self, channels: int, out: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        nn.init.zeros_(self.bn2.weight)  # a block begins as its shortcut
        self.downsample = None
        if stride != 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + shortcut)

    def spread(self, radii: Tensor) -> Tensor:
        shortcut = radii if self.downsample is None else spread(*self.downsample, radii)
        return shortcut + spread(self.conv2, self.bn2, spread(self.conv1, self.bn1, radii))


class ResNet18(nn.Module):
    """Maps images (N, 1, 8, 8) to logits (N, classes)."""

    def __init__(self, width: int = WIDTH, classes: int = 10):
        super().__init__()
        self.larger = nn.Upsample(scale_factor=4, mode="nearest")
        self.conv1 = nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = self._stage(width, width, 1)
        self.layer2 = self._stage(width, 2 * width, 2)
        self.layer3 = self._stage(2 * width, 4 * width, 2)
        self.layer4 = self._stage(4 * width, 8 * width, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8 * width, classes)

    @staticmethod
    def _stage(channels: int, out: int, stride: int) -> nn.Sequential:
        return nn.Sequential(BasicBlock(channels, out, stride), BasicBlock(out, out, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(self.larger(x)))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))

    def growth(self) -> Tensor:
        """Returns a bound of how far the logits move, on average, if each pixel moves by at most 1."""
        radii = self.maxpool(spread(self.conv1, self.bn1, self.larger(torch.ones(1, 1, 8, 8))))
        for block in (*self.layer1, *self.layer2, *self.layer3, *self.layer4):
            radii = block.spread(radii)
        return F.linear(radii.mean((2, 3)), self.fc.weight.abs()).mean()


def net() -> ResNet18:
    """Returns the net with its first weights.  `--model examples/resnet18.py:net` calls this function."""
    return ResNet18()


def train(model: ResNet18, x: Tensor, y: Tensor, epochs: int, eps: float, penalty: float) -> None:
    """Trains on images that one step of the sign of the gradient has moved by eps, with a penalty on the growth."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, total_steps=epochs * -(-len(x) // 64))
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(x)).split(64):
            images = x[rows].clone().requires_grad_()
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(images), y[rows]), images)
            moved = (images + eps * gradient.sign()).clamp(0, 1).detach()
            loss = F.cross_entropy(model(moved), y[rows]) + penalty * model.growth().log()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(rows)
        print(f"\repoch {epoch + 1} of {epochs}, loss {total / len(x):.3f}", end="", flush=True)
    print()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = Path("results/resnet18")
    parser.add_argument("--out", type=Path, default=default, metavar="DIR", help="default: results/resnet18")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="default: 8")
    parser.add_argument("--eps", type=float, default=0.05, metavar="E", help="of training; default: 0.05")
    parser.add_argument("--penalty", type=float, default=0.1, metavar="P", help="weight of log growth; default: 0.1")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    data, model = load_dataset("digits"), net()
    train(model, data.x_train, data.y_train, args.epochs, args.eps, args.penalty)
    model.eval()
    with torch.no_grad():
        clean = (model(data.x_test).argmax(1) == data.y_test).double().mean().item()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), args.out / "net.pt")
    print(f"{100 * clean:.2f} % of the test images are classified correctly")
    print(f"{args.out}: net.pt")


if __name__ == "__main__":
    main()
