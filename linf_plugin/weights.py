"""Weights that someone else saved, in a file of ``torch.save`` or of safetensors.  Nothing in the file is executed."""

import os
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from . import archive, extras

SAFETENSORS = ".safetensors"
NESTS = ("state_dict", "model_state_dict", "model")  # keys under which checkpoints of training keep the weights
WRAPPERS = ("module.", "_orig_mod.")  # before each name, if the saved net was a DataParallel or was compiled
COUNTER = "num_batches_tracked"  # of BatchNorm: evaluation does not use it, and old files lack it
STATE = "_extra_state"  # whether it may be missing is for the layer to say
MOST_NAMED = 4  # names in one sentence


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """Returns the weights in a file: name → tensor, on the CPU.

    Args:
        path: a file of safetensors if its name ends so, otherwise a file of ``torch.save``.  The file holds a state
            dict, or a dict that has one under a key of ``NESTS``.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is of neither format, is damaged, holds more than tensors and plain data, or holds no
            state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist" if not path.exists() else f"{path} is not a file")
    if path.suffix == SAFETENSORS:
        return _of_safetensors(path)
    try:
        content = archive.load(path)
    except ValueError as error:
        raise ValueError(
            f"{path} is not a file of weights that can be read without running it: {error}; "
            "save the state dict alone, with torch.save(model.state_dict(), …)"
        ) from error
    return _state_dict(content, path)


def _of_safetensors(path: Path) -> dict[str, Tensor]:
    with extras.named():
        from safetensors import SafetensorError
        from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{path} is not a readable file of safetensors: {' '.join(str(error).split())}") from error


def _is_state_dict(value: Any) -> bool:
    return isinstance(value, dict) and len(value) > 0 and all(isinstance(a, Tensor) for a in value.values())


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    nested = [content[key] for key in NESTS if key in content] if isinstance(content, dict) else []
    for found in (content, *nested):
        if _is_state_dict(found):
            return {str(name): a for name, a in found.items()}
    held = _some([repr(key) for key in content]) if isinstance(content, dict) else type(content).__name__
    raise ValueError(f"{path} has no state dict, neither by itself nor under {' or '.join(NESTS)}: it holds {held}")


def fill(model: nn.Module, weights: dict[str, Tensor], path: str | os.PathLike) -> None:
    """Gives a model the weights of a file.  Prefixes of ``WRAPPERS`` before every name are left out.

    Args:
        model: the net.
        weights: from ``read_weights``.
        path: of the file, for messages.

    Raises:
        ValueError: an entry is missing, is unknown, or has another shape or kind of numbers than the model's.  The
            message has a sentence for each of these.
    """
    wanted = model.state_dict()
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in weights) and not any(name.startswith(prefix) for name in wanted):
            weights = {name.removeprefix(prefix): a for name, a in weights.items()}
    missing = [name for name in wanted if name not in weights and not name.endswith((COUNTER, STATE))]
    unknown = [name for name in weights if name not in wanted]
    found = []
    if missing:
        found.append(f"it lacks {_some(missing)}")
    if unknown:
        found.append(f"the model has no {_some(unknown)}")
    for name in wanted.keys() & weights.keys():
        ours, theirs = wanted[name], weights[name]
        if not isinstance(ours, Tensor) or name.endswith(STATE):
            continue
        if ours.shape != theirs.shape:
            found.append(f"{name} has the shape {tuple(theirs.shape)} in it, and {tuple(ours.shape)} in the model")
        elif ours.is_floating_point() != theirs.is_floating_point():
            found.append(f"{name} is {theirs.dtype} in it, and {ours.dtype} in the model")
    if not found:
        try:
            model.load_state_dict(weights)
            return
        except RuntimeError as error:  # of a layer's own state
            found = [" ".join(str(error).split())]
    raise ValueError(f"{path} does not fit the model: {_some(found, '; ')}")


def _some(words: list[str], comma: str = ", ") -> str:
    more = len(words) - MOST_NAMED
    return comma.join(words[:MOST_NAMED]) + (f"{comma}and {more} more" if more > 0 else "")
