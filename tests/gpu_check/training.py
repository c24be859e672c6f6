"""Three epochs of training on the device, and certificates of what they leave."""

import math
import time
import tomllib
from pathlib import Path

import torch
from torch import Tensor

from . import absent
from .compare import share
from .record import Record, attempt

absent.stand_in()

import linf_plugin
from comparisons.methods.losses import LOSSES
from comparisons.methods.optimizers import OPTIMIZERS
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.training import Schedule, fit

RECIPE = Path(__file__).resolve().parents[2] / "comparisons" / "recipes" / "digits.toml"
EPOCHS = 3
IMAGES = 1500  # of the synthetic data
CONVOLUTION = {"name": "linf-conv", "channels": (16, 16), "strides": (1, 2), "width": 64}
RUNS = {  # name: (method of the recipe, its architecture or another)
    "linf-dist": ("linf-dist", None),
    "convolution": ("linf-dist", CONVOLUTION),
    "linf-dist-mlp": ("linf-dist-mlp", None),
}


def _digits() -> tuple[str, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Training and test images: scikit-learn's digits, or where that is not installed ten noisy 8×8 patterns."""
    try:
        from linf_plugin.datasets import load_dataset

        data = load_dataset("digits")
        return "scikit-learn's digits", (data.x_train, data.y_train, data.x_test, data.y_test)
    except ImportError:
        generator = torch.Generator().manual_seed(0)
        patterns = torch.rand(10, 1, 8, 8, generator=generator)
        y = torch.randint(0, 10, (IMAGES,), generator=generator)
        x = (patterns[y] + 0.1 * torch.randn(IMAGES, 1, 8, 8, generator=generator)).clamp(0, 1)
        return "synthetic patterns", (x[300:], y[300:], x[:300], y[:300])


def _train(record: Record, name: str, data: tuple[Tensor, ...]) -> dict | None:
    """Trains for some epochs, on the device and for comparison on the CPU."""
    method, architecture = RUNS[name]
    recipe = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
    table = recipe["defaults"] | recipe["methods"][method]
    architecture = dict(architecture or table["architecture"])
    schedule = Schedule(**table["schedule"]).scaled(EPOCHS)
    arguments = {part: {k: v for k, v in table[part].items() if k != "name"} for part in ("loss", "optimizer")}

    def trained(device: str, epochs: Schedule) -> tuple[linf_plugin.Net, list[dict]]:
        torch.manual_seed(0)
        model = linf_plugin.build(
            architecture["name"],
            shape=(1, 8, 8),
            classes=10,
            mean=(0.3053,),
            std=0.376,
            **{key: value for key, value in architecture.items() if key != "name"},
        ).to(device)
        loss = LOSSES[table["loss"]["name"]](model.eval(), epochs, **arguments["loss"]).to(device)
        optimizer = OPTIMIZERS[table["optimizer"]["name"]](model, loss, **arguments["optimizer"])
        x, y = (a.to(device) for a in data[:2])
        history = fit(model, loss, optimizer, epochs, x, y, batch_size=table["batch_size"], progress=False).history
        return model, history

    began = time.perf_counter()
    model, history = trained(record.device, schedule)
    seconds = time.perf_counter() - began
    _, on_cpu = trained("cpu", schedule)
    losses = [h["loss"] for h in history]
    if not losses[0] > 0:
        record.fail(f"{name}: the loss of the first epoch is {losses[0]}")
    record.found[name] = {
        "loss": losses,
        "loss on the CPU": [h["loss"] for h in on_cpu],
        "seconds": seconds,
        "images_per_second": [h["images_per_second"] for h in history],
        "peak_memory_mib": history[-1]["peak_memory_mib"],
        **_certified(record, name, model, *data[2:]),
    }
    return record.found[name]


@torch.no_grad()
def _certified(record: Record, name: str, model: linf_plugin.Net, x: Tensor, y: Tensor) -> dict:
    """Accuracy and radii, which must be those of the same weights on the CPU: without a linear head to the bit."""
    heads = any(isinstance(layer, torch.nn.Linear) for layer in model)
    logits, radii = model(x.to(record.device)), linf_plugin.sound_radius(model, x.to(record.device))
    on_cpu = model.cpu()
    exact, expected = on_cpu(x), linf_plugin.sound_radius(on_cpu, x)
    allowed = 1e-5 * exact.abs().amax() if heads else 0.0
    for what, got, want, most in (
        ("logits", logits, exact, allowed),
        ("radii", radii, expected, 1e-6 * expected + allowed / lipschitz_bound(model, math.inf)),
    ):
        if share(got, want, most) > 1:
            record.fail(f"{name}: the {what} are not those that the CPU gets from the same weights")
    return {
        "accuracy": (logits.argmax(1).cpu() == y).double().mean().item(),
        "median radius": radii.median().item(),
        "largest difference of logits from the CPU's": (logits.cpu() - exact).abs().max().item(),
        "largest difference of radii from the CPU's": (radii.cpu() - expected).abs().max().item(),
    }


def run(record: Record) -> str:
    what, data = _digits()
    if record.quick:
        data = tuple(a[:200] for a in data)
    record.found["data"] = what
    words = []
    for name in list(RUNS)[:1] if record.quick else RUNS:
        found = attempt(record, name, _train, record, name, data)
        if found:
            words.append(f"{name} {found['images_per_second'][-1]:.0f} images/s, {found['accuracy']:.0%} right")
        record.save()
    return f"{what}: {'; '.join(words)}"
