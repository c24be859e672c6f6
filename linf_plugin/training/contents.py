"""Checks every part of the content of a state file against a run, before any part is restored."""

import math

import torch
from torch import Tensor, nn

from .. import plain, state

NUMBERS = ("loss", "eps", "lr", "seconds", "images_per_second", "time")  # numbers in the record of an epoch


def check_contents(content: dict, parts: dict) -> None:
    """Checks that content is what ``state.write`` saves for a run with these parts.

    Raises:
        ValueError: something is missing, has another type or shape, or is not finite; the message says where.
    """
    _is(content, dict, "its content")
    epochs, history, best, states = (_of(content, key, "its content") for key in ("epochs", "history", "best", "parts"))
    if type(epochs) is not int or epochs < 1:
        raise ValueError(f"epochs must be a positive whole number, got {str(epochs)[:40]}")
    lines = _is(history, str, "history").splitlines()
    if len(lines) > epochs:
        raise ValueError(f"history has {len(lines)} epochs, but the schedule has only {epochs}")
    for epoch, line in enumerate(lines):
        _check_record(epoch, line)
    _is(states, dict, "parts")
    if states.keys() != parts.keys():
        raise ValueError(f"parts are {', '.join(map(str, states))[:200]}, but this run has {', '.join(parts)}")
    for name, part in parts.items():
        check = _check_optimizer if isinstance(part, torch.optim.Optimizer) else _check_module
        check(_is(states[name], dict, name), part, name)
    if best is not None:
        _check_best(_is(best, dict, "best"), parts["model"])


def _is(value, kind: type | tuple[type, ...], where: str):
    if not isinstance(value, kind):
        wanted = "dict" if kind is dict else "number" if isinstance(kind, tuple) else kind.__name__
        raise ValueError(f"{where} must be a {wanted}, got {type(value).__name__}")
    return value


def _of(content: dict, key: str, where: str):
    if key not in content:
        raise ValueError(f"{where} lacks {key!r}")
    return content[key]


def _number(value, where: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        raise ValueError(f"{where} must be a number, got {str(value)[:40]}")


def _check_record(epoch: int, line: str) -> None:
    where = f"epoch {epoch} of history"
    try:
        record = plain.loads(line)
    except ValueError as error:
        raise ValueError(f"{where} is not JSON") from error
    if _of(_is(record, dict, where), "epoch", where) != epoch:
        raise ValueError(f"{where} is the record of another epoch")
    for key in NUMBERS:
        _number(_of(record, key, where), f"{key} of {where}")
    p = _of(record, "p", where)
    if p != "inf":
        _number(p, f"p of {where}")
    for figures in _is(record.get("validation", {}), dict, f"validation of {where}").values():
        for value in _is(figures, dict, f"validation of {where}").values():
            _is(value, (int, float), f"validation of {where}")


def _check_module(theirs: dict, module: nn.Module, where: str) -> None:
    ours = module.state_dict()
    for name in [*ours, *theirs]:
        if name not in theirs or name not in ours:
            raise ValueError(f"{where} {'lacks' if name in ours else 'has the unknown'} {str(name)[:80]!r}")
        if name.rpartition(".")[2] == state.KEY:
            _check_constants(theirs[name], module.get_submodule(name.rpartition(".")[0]), f"{where}.{name}")
            continue
        if not isinstance(ours[name], Tensor):
            continue
        a = _is(theirs[name], Tensor, f"{where}.{name}")
        if a.shape != ours[name].shape or a.dtype != ours[name].dtype:
            raise ValueError(f"{where}.{name} is {tuple(a.shape)} {a.dtype}")
        if not a.isfinite().all():
            raise ValueError(f"{where}.{name} contains NaN or infinite values")


def _check_constants(theirs, layer: nn.Module, where: str) -> None:
    """Lets a layer check the constants in its state, and then restores its own."""
    before = layer.get_extra_state()
    try:
        layer.set_extra_state(theirs)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
    finally:
        layer.set_extra_state(before)


def _check_optimizer(theirs: dict, optimizer: torch.optim.Optimizer, where: str) -> None:
    groups, ours = _is(_of(theirs, "param_groups", where), list, f"{where}.param_groups"), optimizer.state_dict()
    if len(groups) != len(ours["param_groups"]):
        raise ValueError(f"{where} has {len(groups)} groups of weights, but this run has {len(ours['param_groups'])}")
    for i, (group, own) in enumerate(zip(groups, ours["param_groups"])):
        _is(group, dict, f"{where}.param_groups[{i}]")
        for key, value in own.items():
            given = _of(group, key, f"{where}.param_groups[{i}]")
            if key == "lr":  # it may differ, because the schedule changes it
                _number(given, f"lr of {where}.param_groups[{i}]")
            elif isinstance(given, Tensor) or given != value:
                raise ValueError(f"{key} of {where}.param_groups[{i}] is {str(given)[:80]}, but this run has {value}")
    weights = [w for group in optimizer.param_groups for w in group["params"]]
    for index, values in _is(_of(theirs, "state", where), dict, f"{where}.state").items():
        if type(index) is not int or not 0 <= index < len(weights):
            raise ValueError(f"{where}.state has an unknown weight {str(index)[:40]}")
        for key, a in _is(values, dict, f"{where}.state[{index}]").items():
            if isinstance(a, Tensor) and a.shape not in ((), weights[index].shape):
                raise ValueError(f"{str(key)[:40]} of {where}.state[{index}] has shape {tuple(a.shape)}")


def _check_best(best: dict, model: nn.Module) -> None:
    if best.keys() != {"epoch", "weights", "figures", "state"}:
        raise ValueError(f"best has the parts {', '.join(map(str, best))[:200]}")
    _number(best["epoch"], "epoch of best")
    if best["weights"] not in ("last", "average"):
        raise ValueError(f"weights of best are {str(best['weights'])[:40]!r}")
    for value in _is(best["figures"], dict, "figures of best").values():
        _is(value, (int, float), "figures of best")
    _is(_of(best["figures"], "certified", "figures of best"), (int, float), "certified of best")
    _check_module(_is(best["state"], dict, "state of best"), model, "best")
