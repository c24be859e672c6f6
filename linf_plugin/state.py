"""The ``state_dict`` of a layer also holds the constants of its function: the exponent p, strides and the like.

The exponent p changes while a net is trained; strides and the like do not.  So loading a state restores p and compares
the others.  Each layer has them in one tensor of bytes, ``_extra_state``, because code that visits the values of a
state expects tensors: tracing, copies to another device, files that hold only tensors.
"""

import json
import warnings
from typing import Any

import torch
from torch import Tensor, nn

from .arguments import kind

KEY = "_extra_state"  # the name that PyTorch puts after the name of the layer
MOST = 1000  # bytes: Python can crash on JSON that is nested deeply


class StateWarning(UserWarning):
    """A state does not hold p, strides and the like."""


class Constants(nn.Module):
    """A layer whose state also holds the attributes that ``restored`` and ``compared`` name.  JSON must be able to hold
    their values.

    Loading a state sets the attributes in ``restored``.  If one in ``compared`` differs, it raises RuntimeError, as for
    a tensor of another shape, also with strict=False.  A state of an earlier version or of another package does not
    hold these attributes.  It is loaded, the attributes stay as they are, and one ``StateWarning`` tells it for the
    whole net.
    """

    restored: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()

    def get_extra_state(self) -> Tensor:
        """Returns the attributes as JSON: a uint8 tensor (bytes,) on the CPU."""
        held = {name: getattr(self, name) for name in (*self.restored, *self.compared)}
        return torch.tensor(list(json.dumps(held).encode()), dtype=torch.uint8, device="cpu")

    def set_extra_state(self, state: Tensor) -> None:
        """Restores and compares attributes.  Raises ValueError if one differs or ``state`` has another form."""
        given, names = _read(state), (*self.restored, *self.compared)
        if given.keys() != set(names):
            raise ValueError(f"it holds {', '.join(given) or 'nothing'} but must hold {', '.join(names)}")
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
                f"the state belongs to another function than {name}: {error}.  To load only its tensors, leave out the "
                f"keys that end in {KEY}"
            )
        if known:
            return
        if key in missing_keys:
            missing_keys.remove(key)
        # If a layer has tensors and the state has no key of it, PyTorch reports the tensors, unless strict=False.
        if any(other.startswith(prefix) for other in state_dict) or not {**self._parameters, **self._buffers}:
            _warn_once(name, (*self.restored, *self.compared), missing_keys)


def _read(state: Tensor) -> dict:
    if not isinstance(state, Tensor) or state.dim() != 1:
        raise ValueError(f"{KEY} must be a tensor of bytes, got {kind(state)}")
    if state.is_floating_point() and torch.equal(state, state.byte()):  # the mean of equal states, or a converted state
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


_warned: list | None = None  # the list of missing keys of the load_state_dict call that warned last; each call has one


def _warn_once(name: str, attributes: tuple[str, ...], call: list) -> None:
    global _warned
    if call is not _warned:
        _warned = call
        warnings.warn(
            f"the state says nothing of {', '.join(attributes)} of {name}, and perhaps of other layers: it was not "
            "written by this version.  They keep their present values; check that these match the net that was saved",
            StateWarning,
            stacklevel=2,
        )


def tensors(model: nn.Module) -> dict[str, Tensor]:
    """Returns the parameters and buffers of ``model.state_dict()``."""
    return {name: a for name, a in model.state_dict().items() if name.rpartition(".")[2] != KEY}


def constants(model: nn.Module) -> dict[str, Tensor]:
    """Returns the ``_extra_state`` entries of ``model.state_dict()``."""
    return {name: a for name, a in model.state_dict().items() if name.rpartition(".")[2] == KEY}
