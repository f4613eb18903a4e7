"""Several processes that share one training and one calibration: who they are, and how their parts come together.

All of it is the identity for a process that is alone, and torch.distributed is then never touched. The numbers
that decide anything (losses, gradients, whether to stop) come out of a collective and are the same bits on every
rank, so that no rank ever waits for another that has gone a different way.
"""

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from calibrators.errors import CalibrationError

Value = TypeVar("Value")

LONGEST_WAIT = timedelta(days=2)
"""The others wait while the first rank reads ``--val``. One that dies is noticed by its closed connections, and
torchrun ends the rest."""

ABANDONED_WITHIN_S = 5.0
"""How long closing the connections of a failed run may take."""
CLEAN_UP_ONLY = "2"
"""Of TORCH_NCCL_ASYNC_ERROR_HANDLING: where another rank is gone NCCL's kernels are stopped. PyTorch's default also
ends the process, before it can say why."""


class RankLostError(CalibrationError):
    """Another process of the run ended in the middle of the work."""


@dataclass(frozen=True)
class Ranks:
    """This process, ``rank``, among the ``world`` that share the work. Every rank has to make the same calls.

    Values travel over the CPU (gloo), tensors over their own device (gloo or NCCL). Raises RankLostError where
    another process is gone.
    """

    rank: int = 0
    world: int = 1

    def join(self, store: Any, *, cuda: bool = False) -> None:
        """Connect to the others, who meet in ``store`` (a torch.distributed Store).

        ``cuda`` moves GPU tensors by NCCL; the caller has set this process's GPU.
        """
        from torch import distributed

        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", CLEAN_UP_ONLY)
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=self.rank,
            world_size=self.world,
            timeout=LONGEST_WAIT,
        )

    def leave(self) -> None:
        """Close the connections, if there are any: a rank that waits for this one gets RankLostError."""
        if self.world == 1:
            return
        from torch import distributed

        if distributed.is_initialized():
            distributed.destroy_process_group()

    def abandon(self) -> bool:
        """Close the connections of a run that has failed, and stop what still runs on them; whether that worked.

        ``leave`` would wait for NCCL's kernels, which wait for the other ranks. Gives up after a few seconds.
        """
        if self.world == 1:
            return True
        closing = threading.Thread(target=_abort, name="abandon", daemon=True)
        closing.start()
        closing.join(ABANDONED_WITHIN_S)
        return not closing.is_alive()

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    def share(self, rows: Shaped[Tensor, "all *rest"]) -> Shaped[Tensor, "part *rest"]:
        """This rank's part of rows that divide evenly."""
        return rows.chunk(self.world)[self.rank]

    def parts(self, x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "world *shape"]:
        """The ``x`` of every rank, without gradient."""
        if self.world == 1:
            return x.detach()[None]
        from torch import distributed

        x = x.detach().contiguous()
        parts = [torch.empty_like(x) for _ in range(self.world)]
        with _collective():
            distributed.all_gather(parts, x)
        return torch.stack(parts)

    def mean(self, x: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*shape"]:
        """The mean of the ranks' ``x``, without gradient."""
        if self.world == 1:
            return x.detach()
        from torch import distributed

        total = x.detach().clone()
        with _collective():
            distributed.all_reduce(total)
        return total / self.world

    def any(self, flag: bool) -> bool:
        """Whether ``flag`` is set on one rank or more."""
        if self.world == 1:
            return flag
        from torch import distributed

        count = torch.tensor(int(flag))
        with _collective():
            distributed.all_reduce(count)
        return bool(count)

    def gathered(self, value: Value) -> list[Value]:
        """The ``value`` of every rank, in their order; tensors come to the CPU."""
        if self.world == 1:
            return [value]
        from torch import distributed

        parts: list[Any] = [None] * self.world
        with _collective():
            distributed.all_gather_object(parts, _packed(value))
        return [_unpacked(part) for part in parts]

    def from_first(self, value: Value) -> Value:
        """The first rank's ``value``; tensors come to the CPU."""
        if self.world == 1:
            return value
        from torch import distributed

        message: list[Any] = [_packed(value) if self.first else None]
        with _collective():
            distributed.broadcast_object_list(message, src=0)
        result: Value = _unpacked(message[0])
        return result


SINGLE = Ranks()


class _Parts(torch.autograd.Function):
    """``Ranks.parts`` with a gradient: what all ranks' losses want of this rank's ``x``, added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        return ranks.parts(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.ranks.mean(grad)[ctx.ranks.rank] * ctx.ranks.world, None


def parts_with_gradient(x: Shaped[Tensor, "*shape"], ranks: Ranks) -> Shaped[Tensor, "world *shape"]:
    """The ``x`` of every rank, differentiable.

    The gradient is that of the sum of all ranks' losses; so the *mean* over the ranks of a weight's gradients is
    the gradient of the mean loss.
    """
    parts: Tensor = _Parts.apply(x, ranks)
    return parts


@contextmanager
def _collective() -> Iterator[None]:
    """Turns what the backends raise where a peer is gone into RankLostError."""
    from torch import distributed

    try:
        yield
    except (RuntimeError, ValueError) as error:
        if isinstance(error, ValueError) and distributed.is_initialized():
            raise  # else ``abandon`` has closed the connections under this call
        raise RankLostError(f"another process of this run has ended: {error}") from error


def _abort() -> None:
    """Close all connections without waiting for anything."""
    from torch import distributed
    from torch.distributed.distributed_c10d import _abort_process_group

    with contextlib.suppress(RuntimeError, ValueError, AssertionError):  # the process is about to end anyway
        if distributed.is_initialized():
            _abort_process_group()


def _packed(value: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _unpacked(message: bytes) -> Any:
    # A peer runs this same program for this same user, so its objects are as good as ours.
    return torch.load(io.BytesIO(message), map_location="cpu", weights_only=False)
