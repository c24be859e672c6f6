"""What a layer's function depends on beside its tensors travels in its ``state_dict``.

The exponent p changes while a net is trained, strides and the like do not: loading a state restores the one and
compares the others.  They are one tensor of bytes a layer, ``_extra_state``, because whoever goes over the values of a
state expects tensors: tracing, copies to another device, files of tensors alone.
"""

import json
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import kind

KEY = "_extra_state"  # PyTorch's name of it, behind the layer's
MOST = 1000  # bytes: Python may crash on JSON that is nested deeply


class StateWarning(UserWarning):
    """A state says nothing of p, strides and the like."""


class Constants(nn.Module):
    """A layer whose state holds ``restored`` and ``compared``, names of attributes that JSON can hold.

    Loading sets what is restored.  It raises RuntimeError, as for a tensor of another shape and with strict=False too,
    where anything else differs.  A state that says nothing of them, of an earlier version or of another package, is
    loaded with a ``StateWarning``, one for a whole net; they then stay as they are.
    """

    restored: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()

    def get_extra_state(self) -> Tensor:
        """The attributes as JSON, (bytes,) uint8 on the CPU."""
        held = {name: getattr(self, name) for name in (*self.restored, *self.compared)}
        return torch.tensor(list(json.dumps(held).encode()), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Restores and compares.  Raises ValueError where something differs, or state is nothing of the kind."""
        given, names = _read(state), (*self.restored, *self.compared)
        if given.keys() != set(names):
            raise ValueError(f"it says {', '.join(given) or 'nothing'}, but must say {', '.join(names)}")
        here = {name: getattr(self, name) for name in self.compared}
        differing = [
            f"{name}={given[name]} there, {list(value) if isinstance(value, tuple) else value} here"
            for name, value in here.items()
            if json.dumps(given[name]) != json.dumps(value)
        ]
        if differing:
            raise ValueError("; ".join(differing))
        for name in self.restored:
            try:
                setattr(self, name, given[name])
            except TypeError as error:
                raise ValueError(str(error)) from error

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key, name = prefix + KEY, f"layer {prefix[:-1]!r} ({type(self).__name__})" if prefix else type(self).__name__
        known = key in state_dict
        try:
            super()._load_from_state_dict(
                state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
            )
        except ValueError as error:
            error_msgs.append(
                f"the state is of another function than {name}: {error}.  To load its tensors alone, leave out the "
                f"keys that end in {KEY}"
            )
        if known:
            return
        if key in missing_keys:
            missing_keys.remove(key)
        # Where nothing at all is said of a layer with tensors, it is PyTorch that misses them, or strict=False.
        if any(other.startswith(prefix) for other in state_dict) or not {**self._parameters, **self._buffers}:
            _warn_once(name, (*self.restored, *self.compared), missing_keys)


def _read(state: Tensor) -> dict:
    if not isinstance(state, Tensor) or state.dim() != 1:
        raise ValueError(f"{KEY} must be a tensor of bytes, got {kind(state)}")
    if state.is_floating_point() and torch.equal(state, state.byte()):  # a mean of equal states, or a converted one
        state = state.byte()
    if state.dtype != torch.uint8:
        raise ValueError(f"{KEY} must be a tensor of bytes, got {kind(state)}")
    if len(state) > MOST:
        raise ValueError(f"{KEY} must have at most {MOST} bytes, got {len(state)}")
    try:
        given = json.loads(bytes(state.tolist()))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{KEY} must be JSON") from error
    if not isinstance(given, dict):
        raise ValueError(f"{KEY} must be a JSON object")
    return given


_warned: list | None = None  # the list of missing keys, one for each call of load_state_dict, that was warned of last


def _warn_once(name: str, attributes: tuple[str, ...], call: list) -> None:
    global _warned
    if call is not _warned:
        _warned = call
        warnings.warn(
            f"the state says nothing of {', '.join(attributes)} of {name}, nor perhaps of other layers: it was not "
            "written by this version.  They stay as they are; check that they are those of the net that was saved",
            StateWarning,
            stacklevel=2,
        )


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and buffers of ``model.state_dict()``."""
    return {name: a for name, a in model.state_dict().items() if name.rpartition(".")[2] != KEY}


def constants(model: nn.Module) -> dict[str, Tensor]:
    """The rest of it."""
    return {name: a for name, a in model.state_dict().items() if name.rpartition(".")[2] == KEY}
