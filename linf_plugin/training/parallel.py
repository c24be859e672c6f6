"""One training run by several processes, one a device, which ``torchrun`` starts.

Every process (rank) holds the whole training set and the whole model, and draws the same batches with the same
augmentation.  Of each batch it computes its own rows, and three things are added up over the ranks:

- the loss of a batch, a mean over samples: each rank's mean is weighed by its part of the samples, so that the sum
  is the mean of the whole batch, whatever the parts are;
- the batch means of ``MeanShift``, which make samples depend on each other, forwards and backwards;
- the gradients of the parameters.

So a step is that of one process but for the rounding of sums in another order, and all ranks hold the same bits
after it.  Gradients are added after the backward pass, in the order of the parameters: a resumed run adds them as
one that was never interrupted, and a loss may reach its parameters by any way.
"""

import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .. import state
from ..layers.shifts import MeanShift, reestimate_means

PATIENCE = datetime.timedelta(days=30)  # of ranks that wait for what rank 0 does alone, certificates above all


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """Says in one line what a rank sees whose partner ended; the partner has said why it did."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"no exchange with another process, which may have ended: {str(error).splitlines()[0]}"
        ) from error


class _SumOverRanks(torch.autograd.Function):
    """Σ_r x_r on every rank.  The loss is a sum over ranks too, so the gradient of each x_r is Σ_r grad_r."""

    @staticmethod
    def forward(ctx, x: Tensor, group) -> Tensor:
        ctx.group = group
        total = x.clone(memory_format=torch.contiguous_format)
        with _exchange():
            dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:
        return _SumOverRanks.apply(grad, ctx.group), None


@contextlib.contextmanager
def synchronised_means(model: nn.Module, group: dist.ProcessGroup) -> Iterator[None]:
    """While open, every ``MeanShift`` of the model takes the mean of what all ranks of ``group`` pass it.

    All ranks must run the model equally often, in training mode all or none.  A rank may pass no sample, if its
    output still reaches its loss.  Outside, nothing waits for other processes: copies of the model, evaluation.
    """
    layers = [m for m in model.modules() if isinstance(m, MeanShift)]
    before = [layer.sum_over_ranks for layer in layers]
    for layer in layers:
        layer.sum_over_ranks = lambda x: _SumOverRanks.apply(x, group)
    try:
        yield
    finally:
        for layer, function in zip(layers, before):
            layer.sum_over_ranks = function


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run.  ``Ranks()`` is alone, on the CPU: each method then does the plain thing.

    rank: 0 … world − 1; rank 0 writes files and shows progress.  world: how many there are.  device: this rank's.
    group: for sums between devices.  control: for plain data, and for waiting long.
    """

    rank: int = 0
    world: int = 1
    device: torch.device = torch.device("cpu")
    group: dist.ProcessGroup | None = None
    control: dist.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def loss(self, loss: Callable, model: nn.Module, x: Tensor, y: Tensor, step) -> Tensor:
        """This rank's summand of the loss of a batch.

        Args:
            loss: ``loss(model, x, y, step) → scalar``, a mean over samples.
            x, y: the whole batch, on every rank the same.

        A batch with fewer samples than ranks is computed whole by each, so that no rank's mean is over nothing.
        """
        if self.world == 1:
            return loss(model, x, y, step)
        if len(x) < self.world:
            mine, part = slice(None), 1 / self.world
        else:
            mine = slice(self.rank, None, self.world)
            part = len(x[mine]) / len(x)
        with synchronised_means(model, self.group):
            return part * loss(model, x[mine], y[mine], step)

    def start_alike(self, *modules: nn.Module) -> None:
        """Gives every rank the parameters and buffers of rank 0.

        Raises:
            ValueError: the ranks have layers of another p, stride or the like.
        """
        if self.world > 1:
            if not self.alike([{k: a.tolist() for k, a in state.constants(m).items()} for m in modules]):
                raise ValueError("the processes must pass the same model, but a p or stride of a layer differs")
            with _exchange():
                for tensor in (t for module in modules for t in state.tensors(module).values()):
                    dist.broadcast(tensor, src=0, group=self.group)

    def sum(self, value: Tensor) -> Tensor:
        """The sum over the ranks, without gradient; where one of them is NaN or infinite, all see it."""
        total = value.detach().clone()
        if self.world > 1:
            with _exchange():
                dist.all_reduce(total, group=self.group)
        return total

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces the gradient of each parameter by its sum over the ranks."""
        if self.world > 1:
            grads = [p.grad for p in parameters if p.grad is not None]
            with _exchange():
                for work in [dist.all_reduce(g, group=self.group, async_op=True) for g in grads]:
                    work.wait()

    def reestimate_means(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        """``layers.reestimate_means`` over whole batches, the same on every rank, each computing its rows."""
        if self.world == 1:
            reestimate_means(model, batches)
        else:
            with synchronised_means(model, self.group):
                reestimate_means(model, (x[self.rank :: self.world] for x in batches))

    def agree(self, value):
        """What rank 0 passes, plain data or tensors on the CPU, on every rank; the others wait for it."""
        if self.world == 1:
            return value
        box = [value]
        with _exchange():
            dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def alike(self, value) -> bool:
        """Whether all ranks pass the same plain data; all get the same answer."""
        if self.world == 1:
            return True
        values = [None] * self.world
        with _exchange():
            dist.all_gather_object(values, value, group=self.control)
        return all(other == values[0] for other in values)


@contextlib.contextmanager
def join(device: str) -> Iterator[Ranks]:
    """The ranks of this run: those that ``torchrun`` started, over NCCL for CUDA and Gloo for the CPU; or this
    process alone.

    Args:
        device: "cpu" or "cuda"; of several processes each takes the CUDA device of its local rank.

    Raises:
        ValueError: there are more processes on this machine than CUDA devices.
    """
    where = torch.device(device)
    if not dist.is_torchelastic_launched():
        yield Ranks(device=where)
        return
    here, devices = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
    if where.type == "cuda":
        if here > devices:
            raise ValueError(
                f"device cuda: {here} processes but {devices} CUDA devices on this machine; give torchrun "
                f"--nproc-per-node {devices}, or choose the device cpu"
            )
        where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(where)
    backend = "nccl" if where.type == "cuda" else "gloo"
    dist.init_process_group(backend, device_id=where if where.type == "cuda" else None)
    control = dist.new_group(backend="gloo", timeout=PATIENCE)
    yield Ranks(dist.get_rank(), dist.get_world_size(), where, dist.group.WORLD, control)
    dist.destroy_process_group()  # not after an exception: the others may be waiting for this rank, which ends
