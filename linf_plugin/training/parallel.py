"""Several processes do one training run.  ``torchrun`` starts them, one for each device.

Every process (rank) holds the whole training set and the whole model, and draws the same batches with the same
augmentation.  It computes its own rows of each batch, and three things are summed over the ranks:

- the loss of a batch, a mean over samples.  Each rank weighs its mean by its part of the samples, so the sum is the
  mean of the whole batch for any division into parts;
- the batch means of ``MeanShift``, forwards and backwards, because they make samples depend on each other;
- the gradients of the parameters.

So a step equals that of one process, except that sums are rounded in another order.  After a step all ranks hold the
same bits.  Gradients are summed after the backward pass, in the order of the parameters.  So a resumed run sums them in
the same order as a run without interruption, and it does not matter how a loss uses the parameters.
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

PATIENCE = datetime.timedelta(days=30)  # how long ranks wait for work that only rank 0 does, above all certificates


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """Raises a ConnectionError of one line if an exchange fails.  Another rank has then ended and told its reason."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionError(
            f"the exchange with another process failed (it may have ended): {str(error).splitlines()[0]}"
        ) from error


class _SumOverRanks(torch.autograd.Function):
    """Gives Σ_r x_r on every rank.  The loss is a sum over ranks too, so the gradient of each x_r is Σ_r grad_r."""

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
    """While it is open, every ``MeanShift`` of the model takes the mean over the inputs of all ranks of ``group``.

    All ranks must run the model equally often, and all in the same mode.  A rank may pass no sample, if its loss still
    depends on its output.  Outside this context the model waits for no other process: its copies and its evaluation
    work as usual.
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
    """This process among the processes of a run.  ``Ranks()`` is a run of one process on the CPU, without any exchange.

    rank: 0 … world − 1; rank 0 writes files and shows progress.  world: number of processes.  device: the device of
    this rank.  group: the group for sums between devices.  control: the group for plain data and for long waits.
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
        """Returns this rank's summand of the loss of a batch.

        If a batch has fewer samples than there are ranks, each rank computes all of it, so no mean is over nothing.

        Args:
            loss: ``loss(model, x, y, step) → scalar``, a mean over samples.
            x, y: the whole batch, the same on every rank.
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
            ValueError: the layers of the ranks differ in p, a stride or the like.
        """
        if self.world > 1:
            if not self.alike([{k: a.tolist() for k, a in state.constants(m).items()} for m in modules]):
                raise ValueError("the processes must pass the same model, but a p or stride of a layer differs")
            with _exchange():
                for tensor in (t for module in modules for t in state.tensors(module).values()):
                    dist.broadcast(tensor, src=0, group=self.group)

    def sum(self, value: Tensor) -> Tensor:
        """Returns the sum over the ranks, without gradient.  If one value is NaN or infinite, all ranks see it."""
        total = value.detach().clone()
        if self.world > 1:
            with _exchange():
                dist.all_reduce(total, group=self.group)
        return total

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces the gradient of each parameter with its sum over the ranks."""
        if self.world > 1:
            grads = [p.grad for p in parameters if p.grad is not None]
            with _exchange():
                for work in [dist.all_reduce(g, group=self.group, async_op=True) for g in grads]:
                    work.wait()

    def reestimate_means(self, model: nn.Module, batches: Iterable[Tensor]) -> None:
        """Does ``layers.reestimate_means`` over whole batches, the same on every rank; each rank computes its rows."""
        if self.world == 1:
            reestimate_means(model, batches)
        else:
            with synchronised_means(model, self.group):
                reestimate_means(model, (x[self.rank :: self.world] for x in batches))

    def agree(self, value):
        """Returns on every rank the value of rank 0, plain data or tensors on the CPU.  The other ranks wait for it."""
        if self.world == 1:
            return value
        box = [value]
        with _exchange():
            dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def alike(self, value) -> bool:
        """Returns whether all ranks pass the same plain data.  All get the same answer."""
        values = self.gather(value)
        return all(other == values[0] for other in values)

    def gather(self, value) -> list:
        """Returns on every rank the values of all ranks, in order.  Each is plain data or tensors on the CPU."""
        if self.world == 1:
            return [value]
        values = [None] * self.world
        with _exchange():
            dist.all_gather_object(values, value, group=self.control)
        return values


@contextlib.contextmanager
def join(device: str) -> Iterator[Ranks]:
    """Gives the ranks of this run: the processes that ``torchrun`` started or, without it, this one process.

    The processes communicate by NCCL on CUDA and by Gloo on the CPU.

    Args:
        device: "cpu" or "cuda".  Each of several processes takes the CUDA device of its local rank.

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
    dist.destroy_process_group()  # not after an exception: others may wait for this rank, and its end tells them
