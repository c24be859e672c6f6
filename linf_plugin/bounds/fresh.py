"""Checks that a net is still the one that a BoundedModule was made of.

auto_LiRPA's graph shares the parameters that it reads with the net.  It copies the buffers, and it has everything else
that the trace met as constants.  So a change in place of such a parameter, for example by a step of training, reaches
the graph.  No other change does.  A ``Record`` walks the net and compares all its content with what it was at the time
of the trace.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .decides import ABOUT
from .leaves import AGAIN, Content, Items, Path, Plain, Same, differing
from .walk import walk

OF_THE_NET = ("training", "sub-layers", "__class__")  # a change of these is never taken for the work of a forward pass


class _Watch(TorchFunctionMode):
    """Notes, while it is open, which of ``parameters`` become Python numbers or avoid the trace through ``.data``.

    This may also happen to what is computed from them and from constants.  Tracing makes constants of all these.
    """

    def __init__(self, parameters: list[Tensor], constants: list[Tensor]):
        super().__init__()
        self.sources = {id(a): frozenset() for a in constants} | {id(a): frozenset([id(a)]) for a in parameters}
        self.alive, self.read = [], set()  # tensors are kept alive, so that no other one gets their ids

    def __torch_function__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        if not all(id(a) in self.sources for a in given):  # it depends on the input of the net
            return found
        sources = frozenset().union(*(self.sources[id(a)] for a in given))
        name, made = getattr(function, "__name__", ""), [a for a in tree_leaves(found) if isinstance(a, Tensor)]
        for a in made:
            self.alive.append(a)
            self.sources[id(a)] = sources | self.sources.get(id(a), frozenset())
        if name == "__get__":  # an attribute, such as .shape; .T is traced, .data is not
            if getattr(function, "__self__", None) is Tensor.data:
                self.read |= sources
        elif not made and name not in ABOUT and found is not None:
            self.read |= sources
        return found


def _read_as_numbers(model: nn.Module, inputs: tuple, tensors: list[Tensor]) -> set[int]:
    """Returns the ids of the parameters and buffers that a forward pass turns into numbers; all ids if no pass runs.

    The pass has another number of samples than ``inputs``.  So what a pass leaves behind in the net differs between
    this pass and those of auto_LiRPA.
    """
    buffers = {id(a) for a in model.buffers()}
    parameters = [a for a in tensors if isinstance(a, nn.Parameter) or id(a) in buffers]
    constants = [a for a in tensors if not (isinstance(a, nn.Parameter) or id(a) in buffers)]
    device = next((a.device for a in (*parameters, *constants)), None)

    def same(a: Tensor) -> Tensor:
        return a.detach().as_subclass(Tensor).to(device)

    def others(a: Tensor) -> Tensor:
        return same(a)[:1] if len(a) > 1 else torch.cat([same(a)] * 2)

    with torch.no_grad(), warnings.catch_warnings(), _evaluating(model):
        warnings.simplefilter("ignore")
        for change in (others, same):
            try:
                given = tree_map_only(Tensor, change, inputs)
                with _Watch(parameters, constants) as watch:
                    model(*given)
                return watch.read
            except Exception:  # an error of the net: auto_LiRPA's passes will raise it again
                continue
    return {id(a) for a in parameters}


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Puts the net in evaluation mode, in which no running mean moves and no random number is drawn."""
    modes = {m: m.training for m in model.modules()}
    try:
        for m in modes:
            m.training = False
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode


# The record.


class Record:
    """The content of a net at the time when its BoundedModule was made.

    ``before`` runs the net once and makes the record, ``complete`` adds what the graph tells, and ``check`` compares.
    A deep copy of a record is about the copied net.  A record that was pickled has no net and finds no change.
    """

    def __init__(self, model: nn.Module | None = None):
        self.model, self.then, self.live, self.nodes = model, {}, [], []
        self.written, self.numbers, self.baked, self.at_inputs, self.changed = set(), set(), set(), [], None

    @classmethod
    def before(cls, model: nn.Module, inputs) -> "Record":
        """Makes a record.  Call this before auto_LiRPA traces the model with ``inputs``."""
        record = cls(model)
        found = walk(model)
        tensors = [leaf for leaf in found.values() if isinstance(leaf, Tensor)]
        record.numbers = _read_as_numbers(model, inputs if isinstance(inputs, tuple) else (inputs,), tensors)
        record.baked = {path for path, leaf in found.items() if id(leaf) in record.numbers}
        record.then = {
            path: Content(leaf).kept() if isinstance(leaf, Tensor) and not isinstance(leaf, nn.Parameter) else leaf
            for path, leaf in walk(model).items()
        }
        return record

    def complete(self, bounded: nn.Module) -> None:
        """Completes the record.  Call this after auto_LiRPA has traced the net, which runs the net at least twice."""
        now, held = walk(self.model), self._held(bounded)
        # What differs between passes is what they leave behind: values that every pass writes.
        self.written = {
            place
            for path in self.then.keys() | now.keys()
            if path[1] not in OF_THE_NET and id(now.get(path)) not in held
            for place, *_ in _differences(path, self.then.get(path), now.get(path))
        }
        self.nodes = [
            (node, node.param)
            for node in bounded._modules.values()
            if isinstance(getattr(node, "param", None), nn.Parameter)
        ]
        read = {id(a) for _, a in self.nodes} - self.numbers
        self.live = list({id(a): a for a in now.values() if id(a) in read}.values())
        self.then = {
            path: Same(leaf) if id(leaf) in read else Content(leaf).kept() if isinstance(leaf, Tensor) else leaf
            for path, leaf in now.items()
            if not self._is_written(path)
        }
        self.numbers, self.baked = set(), set()
        self.note_inputs()

    def _held(self, bounded: nn.Module) -> set[int]:
        """Returns the ids of the parameters, and of the buffers that the graph may have read.

        The graph names the buffers that it has copied, except those that are not saved and those that became numbers.
        """
        read = {node.ori_name for node in bounded._modules.values() if hasattr(node, "buffer")}
        buffers = {
            id(a)
            for name, m in self.model.named_modules()
            for key, a in m._buffers.items()
            if key in m._non_persistent_buffers_set
            or isinstance(m, torch.jit.ScriptModule)
            or f"{name}.{key}".lstrip(".") in read
            or (name, key, ()) in self.baked
        }
        return buffers | {id(a) for a in self.model.parameters()}

    def _is_written(self, path: Path) -> bool:
        name, attribute, inner = path
        return bool(self.written) and any((name, attribute, inner[:n]) in self.written for n in range(len(inner) + 1))

    def check(self) -> None:
        """Raises RuntimeError if the net has changed; the message names the layer and the attribute."""
        if self.model is None:
            return
        now = walk(self.model)
        for path, then in self.then.items():
            for place, *both in _differences(path, then, now.get(path)):
                if not self._is_written(place):
                    raise RuntimeError(_difference(place, *both))
        for path in now.keys() - self.then.keys():
            if not self._is_written(path):
                raise RuntimeError(_difference(path, None, now[path]))
        for node, parameter in self.nodes:
            if node.param is not parameter:
                raise RuntimeError("a parameter of this BoundedModule is no longer the net's: make it again")

    def note_inputs(self) -> None:
        """Notes the parameters.  Call this when inputs are given: auto_LiRPA keeps their intermediate results."""
        if self.changed or [_place(a) for a in self.live] != [place for place, _ in self.at_inputs]:
            self.at_inputs, self.changed = [(_place(a), _sums(a)) for a in self.live], None

    def check_inputs(self) -> None:
        """Raises RuntimeError if a parameter has changed since inputs were given last."""
        for a, (place, sums) in () if self.changed else zip(self.live, self.at_inputs):
            if _place(a) != place or not torch.equal(_sums(a), sums):
                self.changed = next((name for name, b in self.model.named_parameters() if b is a), "a parameter")
                break
        if self.changed:
            raise RuntimeError(
                f"{self.changed} has changed since inputs were given last, so the results kept of them are out of "
                "date: pass x again"
            )

    def __deepcopy__(self, memo: dict) -> "Record":
        copied = memo[id(self)] = Record()
        try:
            self.check_inputs()
            current = True
        except RuntimeError:
            current = False
        try:
            vars(copied).update(copy.deepcopy(vars(self), memo))
        except Exception:  # something in the net cannot be copied: then there is only the copied graph, and no net
            vars(copied).update(vars(Record()))
        if current:
            copied.note_inputs()
        return copied

    def __reduce__(self):
        return Record, ()


def _place(a: Tensor) -> tuple:
    """Returns where a parameter lies and how often it was changed in place, not counting edits through ``.data``."""
    return a._version, a.data_ptr(), a.shape, a.dtype


def _sums(a: Tensor) -> Tensor:
    """Returns sums of the bits of a parameter, each over some hundred bytes: they show edits through ``.data``."""
    bits = a.detach().contiguous().flatten().view(torch.uint8)
    bits = bits if bits.data_ptr() % 8 == 0 else bits.clone()
    whole = len(bits) // 512 * 512
    return torch.cat([bits[:whole].view(torch.int64).view(-1, 64).sum(1), bits[whole:]])


def _agree(then, now) -> bool:
    if isinstance(then, tuple) or isinstance(now, tuple):  # Plain, Items, Digest
        return then == now
    if isinstance(now, Tensor):
        now = Same(now) if isinstance(then, Same) else Content(now)
    if isinstance(then, Tensor):
        then = Content(then)
    return then == now


def _differences(path: Path, then, now) -> list[tuple[Path, object, object]]:
    """Returns (path, then, now) of what differs: of each item if two containers differ only in items."""
    if _agree(then, now):
        return []
    if isinstance(then, Items) and isinstance(now, Items) and then.is_alike(now):
        return [((*path[:2], (*path[2], step)), *both) for step, *both in differing(then, now)]
    return [(path, then, now)]


def _difference(path: Path, then, now) -> str:
    name, attribute, inner = path
    made = "this BoundedModule was made"
    where = "the model" if name == "" else name if name.startswith(("class ", "module ")) else f"layer {name!r}"
    what = attribute + "".join(inner).replace(AGAIN, "")
    if attribute == "training" and then is not None and now is not None:
        mode = "training" if now.text == "True" else "evaluation"
        use = "call eval() on the model before bounding it" if mode == "training" else "make it again"
        return f"{where} is in {mode} mode, but {made} in the other: {use}"
    if then is None:
        return f"{where} has got {what} since {made}: keep that elsewhere, or make it again"
    if now is None:
        return f"{where} has lost {what} since {made}: make it again"
    if isinstance(then, (Plain, Items)) and isinstance(now, (Plain, Items)):
        return f"{where} now has {what}={now.text}, but {made} with {what}={then.text}: make it again"
    if isinstance(then, Same) and isinstance(then.value, Tensor):
        return f"the {what} of {where} is another tensor than the one that {made} with: make it again"
    return f"the {what} of {where} has changed since {made}: make it again"


def has_ours(model: nn.Module, *nodes: nn.Module) -> bool:
    """Whether a layer of the model or a node of its graph is of a class of this package."""
    kinds = {kind for m in (*model.modules(), *nodes) for kind in type(m).__mro__}
    return any(kind.__module__.startswith("linf_plugin.") for kind in kinds)


def check(bounded: nn.Module) -> None:
    """Raises RuntimeError if the net that a BoundedModule was made of has changed, whatever its layers are."""
    record = getattr(bounded, "_linf_record", None)
    if record is None:
        raise RuntimeError("this BoundedModule was made before linf_plugin.bounds was imported: make it again")
    if not bounded._linf_watched:  # a watched one is checked at every request for bounds
        record.check()
