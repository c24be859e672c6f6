"""Writes a net as a benchmark for verifiers in the layout of VNN-COMP: ONNX files, properties in VNN-LIB, instances.

``generate_properties.py`` writes the properties.  Each benchmark has a copy of it, which writes them for another seed
and does not need this package.
"""

import gzip
import json
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor

from linf_plugin.datasets import Dataset
from linf_plugin.files import WouldReplace
from linf_plugin.layers.lipschitz import lipschitz_bound
from linf_plugin.models.net import Net
from linf_plugin.norms import as_radius

from ..running.accuracy import BATCH
from ..running.compare import LINEAR_TOLERANCE
from ..writing.plain import verifier_model
from . import generate_properties as script

README = "README.md"

_README = """\
# {name}

Local robustness of a net trained on {dataset}: {layers};
{parameters:,} parameters. Its logits change by at most {lipschitz:g} times the largest change of a pixel.

Each property asks for an image within ε of a test image, in every pixel, for which the score of a wrong class is at
least that of the label: `sat` is a counter-example, `unsat` means robust.
{kinds}

| | |
| --- | --- |
| ε, of the pixel range [0, 1] | {written} |
| images | {count} of the {pool} in `images.npz`, chosen by the seed; here {seed} |
| instances | {instances}, {timeout} s each, {hours:.3g} hours together |
| input `{input[name]}` | {input[shape]}, raw pixels in [0, 1] |
| output `{output[name]}` | {output[shape]} |

The pool has test images that the net classifies correctly, so no property is false at the image itself.
The nets compute the same function with different operators:

{files}

## Files

- `instances.csv`: net, property, time-out in seconds; names without `.gz`.
- `onnx/`, `vnnlib/`: nets, and properties in VNN-LIB 1.0, inputs numbered in row-major order.
- `vnnlib2/`: the same instances with properties in VNN-LIB 2.0.
- `benchmark.json`, `images.npz`, `generate_properties.py`: the sources of all these.

{unpack}To choose other images (Python with numpy):

```
python generate_properties.py SEED
```

Bounds are clip(x ± ε, 0, 1), rounded towards x to float32 numbers and written with all digits. So the box holds every
float32 image within ε and no other, in every precision in which it is read. `python generate_properties.py --help` says
more.
"""

_KIND_TEXTS = {
    "any": "The wrong class may be any class.",
    "one": "In the files named `…_toCLASS` it is one class, which the seed draws.",
}
_UNPACK = "To unpack nets and properties:\n\n```\ngunzip -kr onnx vnnlib vnnlib2\n```\n\n"


@torch.no_grad()
def _pool(net: Net, data: Dataset, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first test images that the net classifies correctly, at most ``most``: images, labels, places.

    Their margins are so large that another order of additions does not change the class.
    """
    found = []
    for start in range(0, len(data.x_test), BATCH):
        logits, labels = net(data.x_test[start : start + BATCH]), data.y_test[start : start + BATCH]
        if labels.max() >= logits.shape[1]:
            raise ValueError(f"data has the label {labels.max()}, net only {logits.shape[1]} classes")
        label = logits.gather(1, labels[:, None]).squeeze(1)
        other = logits.scatter(1, labels[:, None], -torch.inf).amax(1)
        slack = LINEAR_TOLERANCE * logits.abs().amax(1).clamp(min=1)
        found += (start + (label - other > slack).nonzero().squeeze(1)).tolist()
        if len(found) >= most:
            break
    places = torch.tensor(found[:most], dtype=torch.int64)
    return data.x_test[places], data.y_test[places], places


def _value(info: onnx.ValueInfoProto) -> dict:
    return {"name": info.name, "shape": [d.dim_value for d in info.type.tensor_type.shape.dim]}


def _operators(model: onnx.ModelProto) -> str:
    return f"{len(model.graph.node)} nodes, " + ", ".join(sorted({node.op_type for node in model.graph.node}))


def _readme(
    net: Net, data: Dataset, settings: dict, models: dict[str, onnx.ModelProto], pool: int, seed: int, rows: list
) -> str:
    return _README.format(
        **settings | {"kinds": " ".join(_KIND_TEXTS[kind] for kind in settings["kinds"])},
        dataset=data.name,
        layers=", ".join(layer for layer, _ in net.spec["layers"]),
        parameters=sum(p.numel() for p in net.parameters()),
        lipschitz=lipschitz_bound(net, math.inf),
        pool=pool,
        seed=seed,
        written=", ".join(script.written(eps) for eps in settings["epsilons"]),
        instances=len(rows),
        hours=len(rows) * settings["timeout"] / 3600,
        files="\n".join(f"- `{script.ONNX}/{file}`: {_operators(model)}" for file, model in models.items()),
        unpack=_UNPACK if settings["compress"] else "",
    )


def write_benchmark(
    net: Net,
    folder: str | os.PathLike,
    data: Dataset,
    epsilons: Sequence[float],
    *,
    count: int,
    seed: int = 0,
    pool: int = 1000,
    timeout: int = 300,
    flavours: Sequence[str] = ("maxpool", "relu"),
    kinds: Sequence[str] = ("any",),
    name: str,
    compress: bool = True,
    force: bool = False,
) -> Path:
    """Writes a benchmark of local robustness.

    Each chosen image with each ε and each kind is a property.  Each property with each net is an instance.  Everything
    is written beside the folder and is moved to its place when it is complete.

    Args:
        net: one that ``verifier_model`` takes, in evaluation mode.
        folder: of the benchmark; its parents are made.
        data: its test images are taken.
        epsilons: in units of the pixel range, in (0, 1].
        count: how many images the seed chooses.
        seed: at least 0.
        pool: how many images it chooses from: the first ones that the net classifies correctly, or all of these.
        timeout: of an instance, in whole seconds.
        flavours: of the ONNX files, as for ``verifier_model``.
        kinds: of properties: "any": no other class reaches the logit of the label; "one": one other class does not.
        name: the beginning of file names: letters, digits, dots, dashes and underscores.
        compress: whether nets and properties are gzipped, as in published benchmarks.  VNN-COMP asks for submissions
            that are not.
        force: replace a benchmark that is in the folder.

    Returns:
        The path of the folder.

    Raises:
        WouldReplace: the folder exists, and ``force`` is not set.
        FileExistsError: the folder exists and holds no benchmark.
        ValueError: an argument is out of range or has duplicates; images or labels do not fit the net; the net
            classifies fewer than ``count`` images correctly; or ``verifier_model`` raises it.
    """
    folder, flavours = Path(folder), list(flavours)
    if not flavours or len(set(flavours)) < len(flavours):
        raise ValueError(f"flavours must be different, and at least one, got {flavours}")
    models = {f"{name}_{flavour}.onnx": verifier_model(net, flavour) for flavour in flavours}
    graph = models[f"{name}_{flavours[0]}.onnx"].graph
    settings = {
        "name": name,
        "nets": list(models),
        "input": _value(graph.input[0]),
        "output": _value(graph.output[0]),
        "epsilons": [as_radius(eps, "epsilons") if isinstance(eps, str) else float(eps) for eps in epsilons],
        "count": count,
        "kinds": list(kinds),
        "timeout": timeout,
        "compress": compress,
    }
    script.check_settings(settings)
    script.check_seed(seed)
    if pool < count:
        raise ValueError(f"pool must be at least the {count} images of count, got {pool}")
    if data.shape != net.input_shape:
        raise ValueError(f"the net takes images of shape {net.input_shape}, those of data have {data.shape}")
    if folder.exists() or folder.is_symlink():
        if not force:
            raise WouldReplace(f"{folder} exists")
        if not (folder / script.SETTINGS_FILE).is_file():
            raise FileExistsError(f"{folder} exists and is not a benchmark: it has no {script.SETTINGS_FILE}")
    x, y, places = _pool(net, data, pool)
    if len(x) < count:
        raise ValueError(f"count must be at most the {len(x)} images that the net classifies correctly, got {count}")

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as part:
        new = Path(part) / "new"
        new.mkdir()
        (new / script.ONNX).mkdir()
        for file, model in models.items():
            content = model.SerializeToString(deterministic=True)
            if compress:
                file, content = file + ".gz", gzip.compress(content, mtime=0)
            (new / script.ONNX / file).write_bytes(content)
        (new / script.SETTINGS_FILE).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        np.savez_compressed(new / script.IMAGES_FILE, x=x.numpy(), y=y.numpy(), index=places.numpy())
        shutil.copyfile(script.__file__, new / Path(script.__file__).name)
        rows = script.generate(new, seed)
        (new / README).write_text(_readme(net, data, settings, models, len(x), seed, rows), encoding="utf-8")
        if folder.exists():
            folder.rename(Path(part) / "old")
        new.rename(folder)
    return folder
