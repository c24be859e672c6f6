"""The state of a run between two epochs: to which run it belongs, how it is saved, and when it is refused."""

import dataclasses
import json
import warnings
from pathlib import Path

from torch import Tensor

from .. import checkpoint, files
from ..state import tensors
from .contents import check_contents
from .iteration import Iteration
from .schedule import Schedule
from .selection import Best

KIND = "linf_plugin training state 2"
SHOWN = 5  # differences that a message lists


def settings_of(iterate: Iteration, identity: dict | None, **options) -> dict:
    """Returns the settings that must agree if a run is continued, as plain data with JSON's types.

    Images and labels are represented by their digests.
    """
    groups = [
        {key: value for key, value in group.items() if isinstance(value, (bool, int, float, tuple))}
        for group in iterate.optimizer.param_groups
    ]
    settings = {
        "identity": identity,
        "schedule": dataclasses.asdict(iterate.schedule),
        "batch_size": iterate.batch_size,
        "samples": len(iterate.x),
        "labels": files.digest(iterate.y.cpu()),
        "images": files.digest(iterate.x.cpu()),
        **options,
        "optimizer": {"name": type(iterate.optimizer).__name__, "groups": groups},
        "model": {name: f"{tuple(a.shape)} {a.dtype}" for name, a in tensors(iterate.model).items()},
    }
    return json.loads(json.dumps(settings, default=str))


def differing(theirs, ours, where: str = "") -> list[tuple[str, object, object]]:
    """Returns (name, their value, our value) of each entry in which nested dicts and lists differ."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return [
            each
            for key in {**theirs, **ours}
            for each in differing(theirs.get(key), ours.get(key), f"{where}.{key}" if where else str(key))
        ]
    if isinstance(theirs, list) and isinstance(ours, list) and len(theirs) == len(ours):
        return [each for i, pair in enumerate(zip(theirs, ours)) for each in differing(*pair, f"{where}[{i}]")]
    same = not isinstance(theirs, Tensor) and theirs == ours  # theirs comes from a file, so it can be a tensor
    return [] if same else [(where or "settings", theirs, ours)]


def differences(theirs, ours) -> list[str]:
    """Returns a line "name: value there, value here" for each entry that ``differing`` finds."""
    return [f"{name}: {shown(a)} there, {shown(b)} here" for name, a, b in differing(theirs, ours)]


def shown(value) -> str:
    """Returns a value as a message shows it: short, in one line, and of a digest only the first digits."""
    text = "none" if value is None else " ".join(str(value).split())
    return f"{text[:16]}…" if len(text) == 64 else text if len(text) <= 200 else f"{text[:199]}…"


def read(path: str | Path) -> dict:
    """Returns what ``write`` saved.  Raises ValueError if the file is damaged or is not the state of a run."""
    content = checkpoint.read(path)
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind != KIND:
        raise ValueError(f"{path} is not the state of a training run of this version ({KIND!r})")
    return content


def write(
    path: str | Path, settings: dict, parts: dict, schedule: Schedule, history: list[str], best: Best | None
) -> None:
    """Saves a run between two epochs.  ``history`` has one JSON text per epoch.  Raises as ``checkpoint.write``."""
    checkpoint.write(
        path,
        {
            "kind": KIND,
            "settings": settings,
            "parts": {k: part.state_dict() for k, part in parts.items()},
            "epochs": schedule.epochs,
            "history": "\n".join(history),
            "best": best and dataclasses.asdict(best),
        },
    )


def load(path: str | Path, settings: dict, parts: dict, schedule: Schedule) -> tuple[Schedule, list[str], Best | None]:
    """Restores ``parts`` and returns the schedule, the history and the best candidate that ``write`` saved.

    The schedule is the given one, scaled to the number of epochs in the file.

    Raises:
        ValueError: the file is damaged, is not the state of a run, or belongs to a run with other settings, which the
            message lists.
    """
    content = read(path)
    theirs = content.get("settings")
    if isinstance(theirs, dict) and "images" not in theirs:
        warnings.warn(
            f"{path} was written by a version that kept no digest of the images, so they were not compared",
            stacklevel=2,
        )
        settings = {key: value for key, value in settings.items() if key != "images"}
    found = differences(theirs, settings)
    if found:
        more = "; …" if len(found) > SHOWN else ""
        raise ValueError(f"{path} belongs to another run: " + "; ".join(found[:SHOWN]) + more)
    try:
        check_contents(content, parts)
        best = content["best"] and Best(**content["best"])
        for name, part in parts.items():
            part.load_state_dict(content["parts"][name])
        return schedule.scaled(content["epochs"]), content["history"].splitlines(), best
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())  # torch's message has several lines
        raise ValueError(f"{path} does not fit this run: {reason}") from error
