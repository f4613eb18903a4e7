"""CUDA tensors on a machine without a GPU: shapes, types and devices of everything, and no values.

What can't be faked, and is therefore only known to run on a CPU:

- values: every number that is read from a fake tensor is 1;
- autograd's engine, which asks the driver for its streams: ``backward`` below runs the same formulas without it, and
  no tensor hooks, which ``converter.trust.sensitivity`` lives on;
- ``batch_norm_update_stats`` and ``bincount``, for which PyTorch has no rule for fake tensors: their shapes are given
  here by hand;
- NVIDIA's quantizers (``--qat``), which run CUDA code of their own: the tests take the double of pytorch-quantization;
- which kernels cuDNN has, TF32, memory, speed, and several GPUs (NCCL).
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten


@dataclass
class Waits:
    """The calls for which the host would have waited for a GPU: reads, and copies to it that are not asynchronous."""

    calls: list[str] = field(default_factory=list)


def is_cuda(value: object) -> bool:
    """Whether ``value`` names CUDA, or is a tensor on it."""
    if isinstance(value, Tensor):
        return value.device.type == "cuda"
    return isinstance(value, str | torch.device) and str(value).startswith("cuda")


class _Made(TorchFunctionMode):
    """Makes a fake tensor of what would be made on CUDA or sent there; tensors of the CPU stay real."""

    def __init__(self, fakes: FakeTensorMode, waits: Waits) -> None:
        super().__init__()
        self.fakes, self.waits = fakes, waits

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.pin_memory:
            return args[0]
        to_cuda = func is Tensor.to and any(map(is_cuda, (*args[1:], *kwargs.values())))
        if not to_cuda and not is_cuda(kwargs.get("device")):
            return func(*args, **kwargs)
        with self.fakes:
            if to_cuda and not is_cuda(args[0]):
                if not kwargs.get("non_blocking"):
                    self.waits.calls.append("to cuda")
                args = (self.fakes.from_tensor(args[0].detach()), *args[1:])
            return func(*args, **kwargs)


class _Read(TorchDispatchMode):
    """Answers what would be read from CUDA, and counts it."""

    def __init__(self, fakes: FakeTensorMode, waits: Waits) -> None:
        super().__init__()
        self.fakes, self.waits = fakes, waits

    def __torch_dispatch__(
        self, func: Any, _types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if not (args and isinstance(args[0], FakeTensor) and is_cuda(args[0])):
            with self.fakes if is_cuda(kwargs.get("device")) else nullcontext():  # made by C++ code
                return func(*args, **kwargs)
        answer = _ANSWERS.get(func)
        if answer is None or (func is _aten._to_copy.default and not is_cpu(kwargs.get("device"))):
            return func(*args, **kwargs)
        call, made = answer
        if call:
            self.waits.calls.append(call)
        return made(*args, **kwargs)


def is_cpu(value: object) -> bool:
    """Whether ``value`` is the device of the CPU."""
    return isinstance(value, torch.device) and value.type == "cpu"


_ANSWERS: dict[Any, tuple[str, Callable[..., Any]]] = {
    _aten._local_scalar_dense.default: ("item", lambda x: torch.ones((), dtype=x.dtype).item()),
    _aten._to_copy.default: (
        "to cpu",
        lambda x, dtype=None, **_how: torch.ones(x.shape, dtype=dtype or x.dtype),
    ),
    _aten.nonzero.default: ("nonzero", lambda x: x.new_empty((1, x.dim()), dtype=torch.int64)),
    _aten.bincount.default: (
        "bincount",
        lambda x, _weights=None, minlength=0: x.new_empty(minlength, dtype=torch.int64),
    ),
    _aten.batch_norm_update_stats.default: (
        "",
        lambda x, *_others: (x.new_empty(x.shape[1]), x.new_empty(x.shape[1])),
    ),
}
"""What reads from CUDA, or has no rule for fake tensors: the name of the wait, if it is one, and the result."""


def backward(loss: Tensor) -> None:
    """``loss.backward()`` by the graph's own formulas, one after the other."""
    order: list[Any] = []
    _visit(loss.grad_fn, set(), order)
    given: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    given[loss.grad_fn][loss.output_nr] = torch.ones_like(loss)
    with torch.no_grad():
        for node in reversed(order):
            gradients = given.pop(node, {})
            if hasattr(node, "variable"):
                weight, (gradient,) = node.variable, gradients.values()
                weight.grad = gradient if weight.grad is None else weight.grad + gradient
                continue
            whole = [
                gradients[place] if place in gradients else _zeros(like)
                for place, like in enumerate(node._input_metadata)
            ]
            call = node.apply if isinstance(node, BackwardCFunction) else node
            results = call(*whole)
            results = results if isinstance(results, tuple) else (results,)
            # Not strict: behind its tensors a function may have arguments of other kinds.
            for result, (before, place) in zip(results, node.next_functions, strict=False):
                if result is not None and before is not None:
                    gradient = result.sum_to_size(before._input_metadata[place].shape)
                    known = given[before].get(place)
                    given[before][place] = gradient if known is None else known + gradient


def _visit(node: Any, seen: set[Any], order: list[Any]) -> None:
    """Append ``node`` behind all that its gradients go to."""
    stack = [(node, iter(node.next_functions))]
    seen.add(node)
    while stack:
        node, rest = stack[-1]
        before = next((some for some, _ in rest if some is not None and some not in seen), None)
        if before is None:
            order.append(node)
            stack.pop()
        else:
            seen.add(before)
            stack.append((before, iter(before.next_functions)))


def _zeros(like: Any) -> Tensor:
    return torch.zeros(like.shape, dtype=like.dtype, device=like.device)


def _copied(x: FakeTensor, memo: dict[int, Any]) -> Tensor:
    """``copy.deepcopy`` of a fake tensor; PyTorch's own looks for its memory."""
    copied = x.detach().clone()
    memo[id(x)] = nn.Parameter(copied, x.requires_grad) if isinstance(x, nn.Parameter) else copied
    return memo[id(x)]


_apply = nn.Module._apply


def _applied(module: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """``nn.Module._apply``, which can't put a fake weight in the place of another."""
    kinds: list[dict[str, Any]] = [module._parameters, module._buffers]
    if not any(isinstance(value, FakeTensor) for kind in kinds for value in kind.values()):
        return _apply(module, fn, recurse)
    for child in module.children():
        child._apply(fn)
    with torch.no_grad():
        for kind in kinds:
            for name, old in kind.items():
                new = old if old is None else fn(old)
                kind[name] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    return module


@contextmanager
def fake_cuda() -> Iterator[Waits]:
    """Inside, what is made on "cuda" or sent there is fake, and mixing devices is the error that it is on a GPU.

    Gives the calls for which the host would have waited for the GPU so far.
    """
    waits = Waits()
    with ExitStack() as stack:
        stack.enter_context(patch.object(Tensor, "backward", backward))
        stack.enter_context(patch.object(nn.Module, "_apply", _applied))
        stack.enter_context(patch.object(FakeTensor, "__deepcopy__", _copied, create=True))
        stack.enter_context(
            patch.object(FakeTensor, "tolist", lambda x: x.cpu().tolist())
        )  # its own is an item each
        fakes = FakeTensorMode(allow_non_fake_inputs=True)
        stack.enter_context(_Made(fakes, waits))
        stack.enter_context(_Read(fakes, waits))
        yield waits
