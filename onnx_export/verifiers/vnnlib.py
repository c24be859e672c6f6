"""A net as a benchmark for verifiers, in the layout of VNN-COMP: ONNX files, properties in VNN-LIB, instances.

The properties are written by ``generate_properties.py``, of which each benchmark has a copy: it needs none of this
package to write them anew for another seed.
"""

import gzip
import json
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
from linf_plugin.models.net import Net

from ..running.accuracy import BATCH
from ..running.compare import LINEAR_TOLERANCE
from ..writing.plain import verifier_model
from . import generate_properties as script

README = "README.md"

_README = """\
# {name}

Local robustness of a net trained on {dataset}: {layers};
{parameters:,} parameters. Its logits change by at most {lipschitz:g} times the largest change of a pixel.

Each property asks for an image within ε of a test image, in every pixel, at which a wrong class scores at least as
much as the label: `sat` is a counter-example, `unsat` means robust.
{kinds}

| | |
| --- | --- |
| ε, of the pixel range [0, 1] | {written} |
| images | {count} of the {pool} in `images.npz`, chosen by the seed; here {seed} |
| instances | {instances}, {timeout} s each, {hours:.3g} hours in all |
| input `{input[name]}` | {input[shape]}, raw pixels in [0, 1] |
| output `{output[name]}` | {output[shape]} |

The pool: test images that the net classifies correctly, so no property is false at the image itself.
The nets compute the same with different operators:

{files}

## Files

- `instances.csv`: net, property, time-out in seconds; names without `.gz`.
- `onnx/`, `vnnlib/`: nets, and properties in VNN-LIB 1.0, inputs numbered in row-major order.
- `vnnlib2/`: the same instances once more, with properties in VNN-LIB 2.0.
- `benchmark.json`, `images.npz`, `generate_properties.py`: what they are made from.

{unpack}To choose other images (Python with numpy):

```
python generate_properties.py SEED
```

Bounds are clip(x ± ε, 0, 1), rounded towards x to float32 numbers and written in full: the box holds every float32
image within ε and no other, in whatever precision it is read. `python generate_properties.py --help` has more.
"""

_KIND_TEXTS = {
    "any": "The wrong class may be any.",
    "one": "The wrong class is one that the seed draws, in the files named `…_toCLASS`.",
}
_UNPACK = "To unpack nets and properties:\n\n```\ngunzip -kr onnx vnnlib vnnlib2\n```\n\n"


@torch.no_grad()
def _pool(net: Net, data: Dataset, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The first test images, at most so many, that the net classifies correctly: images, labels, places.

    By a margin that another order of additions cannot turn.
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
        lipschitz=net.lipschitz,
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
    """Writes a benchmark of local robustness: each chosen image with each ε and kind is a property, and each
    property with each net is an instance.

    All is written beside the folder and moved into place once it is complete.

    Args:
        net: in evaluation mode, what ``verifier_model`` takes.
        folder: of the benchmark; its parents are made.
        data: of which the test images are taken.
        epsilons: in units of the pixel range, in (0, 1].
        count: how many images the seed chooses.
        seed: at least 0.
        pool: the first so many test images that the net classifies correctly may be chosen; all, where they are less.
        timeout: of an instance, in whole seconds.
        flavours: of the ONNX files, as ``verifier_model`` knows them.
        kinds: of property: "any", that no other class reaches the label's logit; "one", that one does not.
        name: that file names start with: letters, digits, dots, dashes and underscores.
        compress: gzip nets and properties, as published benchmarks are; VNN-COMP wants a submission without.
        force: replace a benchmark that is in the folder.

    Returns:
        The path of the folder.

    Raises:
        WouldReplace: the folder exists, without ``force``; FileExistsError: with it, but it holds no benchmark.
        ValueError: an argument is out of range or has duplicates, images or labels do not fit the net, or fewer than
            ``count`` images are classified correctly; or what ``verifier_model`` raises.
    """
    folder, flavours = Path(folder), list(flavours)
    if not flavours or len(set(flavours)) < len(flavours):
        raise ValueError(f"flavours must be different ones, and at least one, got {flavours}")
    models = {f"{name}_{flavour}.onnx": verifier_model(net, flavour) for flavour in flavours}
    graph = models[f"{name}_{flavours[0]}.onnx"].graph
    settings = {
        "name": name,
        "nets": list(models),
        "input": _value(graph.input[0]),
        "output": _value(graph.output[0]),
        "epsilons": [float(eps) for eps in epsilons],
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
            raise FileExistsError(f"{folder} exists and is no benchmark: it has no {script.SETTINGS_FILE}")
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
