"""Is a net still the one that a BoundedModule was made of?

auto_LiRPA's graph holds the very parameters that it reads, copies the buffers, and has whatever else the trace met as
constants.  So a change in place of such a parameter, a step of training above all, reaches the graph.  Nothing else
does: a ``Record`` walks the net and compares all that it is made of with what it was made of then.
"""

import contextlib
import copy
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only

from .leaves import AGAIN, Content, Items, Path, Plain, Same, differing
from .walk import walk

OF_THE_NET = ("training", "sub-layers", "__class__")  # no pass is taken to write these
# What a tensor tells of itself, whatever it holds.
ABOUT = {
    "size",
    "dim",
    "ndimension",
    "numel",
    "nelement",
    "stride",
    "storage_offset",
    "element_size",
    "is_contiguous",
    "is_floating_point",
    "is_complex",
    "is_signed",
    "get_device",
    "data_ptr",
    "is_pinned",
    "is_same_size",
    "type",
    "__len__",
    "__hash__",
    "is_inference",
    "is_conj",
    "is_neg",
    "has_names",
    "is_set_to",
    "result_type",
    "can_cast",
}


class _Watch(TorchFunctionMode):
    """While open, notes which of ``parameters`` become Python numbers, or come around the trace by ``.data``, by
    themselves or by what is computed from them and from constants: tracing makes constants of these."""

    def __init__(self, parameters: list[Tensor], constants: list[Tensor]):
        super().__init__()
        self.sources = {id(a): frozenset() for a in constants} | {id(a): frozenset([id(a)]) for a in parameters}
        self.alive, self.read = [], set()  # an id is of the same tensor for as long as that lives

    def __torch_function__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        given = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        if not all(id(a) in self.sources for a in given):  # the input of the net, and what is computed from it
            return found
        sources = frozenset().union(*(self.sources[id(a)] for a in given))
        name, made = getattr(function, "__name__", ""), [a for a in tree_leaves(found) if isinstance(a, Tensor)]
        for a in made:
            self.alive.append(a)
            self.sources[id(a)] = sources | self.sources.get(id(a), frozenset())
        if name == "__get__":  # .shape, .dtype and the like; .T is traced, .data is not
            if getattr(function, "__self__", None) is Tensor.data:
                self.read |= sources
        elif not made and name not in ABOUT and found is not None:
            self.read |= sources
        return found


def _read_as_numbers(model: nn.Module, inputs: tuple, tensors: list[Tensor]) -> set[int]:
    """The ids of the parameters and buffers that a forward pass makes numbers of; all where it cannot be run.

    The pass is of another number of samples than ``inputs`` has, so that what a pass leaves behind in the net differs
    between this one and auto_LiRPA's.
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
            except Exception:  # the net's own: auto_LiRPA's passes will raise it again
                continue
    return {id(a) for a in parameters}


@contextlib.contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, in which no running mean moves and no random number is drawn."""
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
    """What a net was made of when its BoundedModule was made.

    ``before`` runs the net once and makes it, ``complete`` knows the graph, and ``check`` compares.  A deep copy is of
    the copied net; what was pickled has no net, and finds nothing changed.
    """

    def __init__(self, model: nn.Module | None = None):
        self.model, self.then, self.live, self.nodes = model, {}, [], []
        self.written, self.numbers, self.baked, self.at_inputs, self.changed = set(), set(), set(), [], None

    @classmethod
    def before(cls, model: nn.Module, inputs) -> "Record":
        """To be called before auto_LiRPA traces the model with ``inputs``."""
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
        """To be called after auto_LiRPA has traced it, which has run it at least twice."""
        now, held = walk(self.model), self._held(bounded)
        # What differs between passes is what they leave behind: a value that each of them writes.
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
        """The ids of the parameters, and of the buffers that the graph may have read.

        It names the buffers that it has copied, but not those that are not saved and those that became numbers.
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
        """Raises RuntimeError where the net is another; the message names the layer and the attribute."""
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
        """To be called where inputs are given, of which auto_LiRPA keeps intermediate results."""
        if self.changed or [_place(a) for a in self.live] != [place for place, _ in self.at_inputs]:
            self.at_inputs, self.changed = [(_place(a), _sums(a)) for a in self.live], None

    def check_inputs(self) -> None:
        """Raises RuntimeError where a parameter has changed since inputs were given last."""
        for a, (place, sums) in () if self.changed else zip(self.live, self.at_inputs):
            if _place(a) != place or not torch.equal(_sums(a), sums):
                self.changed = next((name for name, b in self.model.named_parameters() if b is a), "a parameter")
                break
        if self.changed:
            raise RuntimeError(
                f"{self.changed} has changed since inputs were given last, and with it what was kept of them: pass x "
                "again"
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
        except Exception:  # something in the net has no copy: then the copied graph is all that there is of it
            vars(copied).update(vars(Record()))
        if current:
            copied.note_inputs()
        return copied

    def __reduce__(self):
        return Record, ()


def _place(a: Tensor) -> tuple:
    """Where a parameter lies, and how often it was changed in place; edits by ``.data`` are not counted."""
    return a._version, a.data_ptr(), a.shape, a.dtype


def _sums(a: Tensor) -> Tensor:
    """Of the bits of a parameter, some hundred bytes at a time: they tell of edits by ``.data``."""
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
    """(path, then, now) of what differs: of two containers that differ in items alone, these."""
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
    """Whether a layer of the model or a node of its graph is of this package."""
    kinds = {kind for m in (*model.modules(), *nodes) for kind in type(m).__mro__}
    return any(kind.__module__.startswith("linf_plugin.") for kind in kinds)


def check(bounded: nn.Module) -> None:
    """Raises RuntimeError where the net that a BoundedModule was made of has changed, whatever its layers are."""
    record = getattr(bounded, "_linf_record", None)
    if record is None:
        raise RuntimeError("this BoundedModule was made before linf_plugin.bounds was imported: make it again")
    if not bounded._linf_watched:  # else it is checked whenever it is asked for bounds
        record.check()
