"""What test_distributed.py runs alone and by two processes: ``python -m tests.calibrators.ranked RANK WORLD FOLDER``.

The results of each rank go to ``FOLDER/RANK.pt``.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import install_import_hook
from torch import Tensor, nn

# As pytest does in its own process: signatures are checked at run time.
with install_import_hook(["calibrators"], "tests.beartype_when_called"):
    from calibrators.data.batches import TensorBatches
    from calibrators.data.input_spec import InputSpec
    from calibrators.distributed import RankLostError, Ranks
    from calibrators.errors import CalibrationError, GeneratorError
    from calibrators.options import ALGORITHMS, CalibrationOptions
    from calibrators.ranges.calibrate import CalibrationResult, calibrate
    from calibrators.zscgan import training
    from calibrators.zscgan.ensemble import Ensemble
    from calibrators.zscgan.options import ZSCGANOptions
    from calibrators.zscgan.resume import restore_checkpoint, save_checkpoint
    from calibrators.zscgan.sampling import SyntheticBatches
    from calibrators.zscgan.successive import EnsembleState, new_ensemble, train_ensemble
    from calibrators.zscgan.training import TrainingState, new_config, new_state, train_generator

SPEC = InputSpec((3, 8, 8), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
OPTIONS = ZSCGANOptions(steps=16, batch=16, latent=8, width=8, samples_per_class=1, least_steps=1)
BOTH = replace(OPTIONS, steps=2 * OPTIONS.steps)
"""Of two generators with as many steps each."""
STOP_AT = OPTIONS.steps + 6
BROKEN_STEP = 2


class StopError(Exception):
    """Ends a training."""


def teacher() -> nn.Module:
    """A classifier in float64 whose second batch norm runs twice, and whose statistics are of real passes."""
    torch.manual_seed(0)
    shared = nn.BatchNorm2d(8)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, stride=2, bias=False),
        shared,
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        shared,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    ).double()
    for _ in range(50):
        model(torch.rand(32, *SPEC.shape, dtype=torch.float64))
    return model.eval().requires_grad_(False)


def fresh(options: ZSCGANOptions = OPTIONS) -> TrainingState:
    """An untrained generator in float64, so that rounding stays small through all steps."""
    state = new_state(new_config(SPEC, 4, options), options, torch.device("cpu"))
    state.generator.double()
    return state


def fresh_both(options: ZSCGANOptions = BOTH) -> EnsembleState:
    """Two untrained generators in float64."""
    state = new_ensemble(SPEC, 4, options, torch.device("cpu"))
    for member in state.members:
        member.generator.double()
    return state


def first_step(ranks: Ranks, dtype: torch.dtype) -> dict[str, Any]:
    """Losses and unclipped gradients of one step."""
    state, clipping = fresh(), training.MAX_GRADIENT_NORM
    state.generator.to(dtype)
    training.MAX_GRADIENT_NORM = float("inf")
    try:
        train_generator(teacher().to(dtype), SPEC, 4, replace(OPTIONS, steps=1), state=state, ranks=ranks)
    finally:
        training.MAX_GRADIENT_NORM = clipping
    gradients = {name: weight.grad for name, weight in state.generator.named_parameters()}
    return {"history": state.dump()["history"], "gradients": gradients}


def whole_run(ranks: Ranks) -> dict[str, Any]:
    """The state after all steps. The other ranks begin with other weights, which must not matter."""
    state = fresh_both(BOTH if ranks.first else replace(BOTH, seed=ranks.rank))
    return train_ensemble(teacher(), SPEC, 4, BOTH, state=state, ranks=ranks).dump()


def stopped(ranks: Ranks, folder: Path) -> None:
    """A checkpoint of the first ``STOP_AT`` steps in ``folder``, so that the second generator is in training."""

    def stop(state: EnsembleState) -> None:
        if ranks.any(state.step == STOP_AT and ranks.first):
            if ranks.first:
                save_checkpoint(state, folder / "training.ckpt", "key")
            raise StopError

    try:
        train_ensemble(teacher(), SPEC, 4, BOTH, state=fresh_both(), on_step=stop, ranks=ranks)
    except StopError:
        return
    raise AssertionError("the training was not stopped")


def resumed(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """The state after all steps, from the checkpoint, which the first rank alone reads."""
    state = fresh_both()
    if ranks.first:
        assert restore_checkpoint(state, folder / "training.ckpt", "key")
    return train_ensemble(teacher(), SPEC, 4, BOTH, state=state, ranks=ranks).dump()


@contextmanager
def broken_on(model: nn.Module, ranks: Ranks, step: int) -> Iterator[nn.Module]:
    """The model with NaN logits in one step on the last rank alone."""
    calls = 0

    def break_once(_model: nn.Module, _inputs: Any, logits: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return logits * torch.nan if calls == step + 1 and ranks.rank == ranks.world - 1 else logits

    handle = model.register_forward_hook(break_once)
    yield model
    handle.remove()


def with_a_broken_step(ranks: Ranks) -> dict[str, Any]:
    """The state after a run in which one step is not finite on one rank."""
    with broken_on(teacher(), ranks, BROKEN_STEP) as model:
        return train_generator(model, SPEC, 4, OPTIONS, state=fresh(), ranks=ranks).dump()


def never_finite(ranks: Ranks) -> str:
    """The error of a training whose statistics are broken."""
    model = teacher()
    model.get_submodule("1").running_mean.fill_(torch.nan)  # type: ignore[operator, union-attr]
    try:
        train_generator(model, SPEC, 4, OPTIONS, state=fresh(), ranks=ranks)
    except GeneratorError as error:
        return str(error)
    raise AssertionError("expected a GeneratorError")


def ranges(ranks: Ranks) -> dict[str, CalibrationResult]:
    """Ranges by each algorithm, over batches that rise in size of values, and over fewer batches than ranks."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(44, 2, 6, 6, generator=generator) * torch.arange(44).view(-1, 1, 1, 1)

    def observe(x: Tensor) -> dict[str, Tensor]:
        return {"input": x, "relu": x.relu(), "dead": (x - 1000).relu(), "tiny": x * 1e-40}

    many, one = (TensorBatches(x, torch.zeros(44, dtype=torch.int64), size) for size in (4, 44))
    results = {
        name: calibrate(observe, many, options=CalibrationOptions(name), ranks=ranks) for name in ALGORITHMS
    }
    results["samples 42"] = calibrate(observe, many, options=CalibrationOptions(samples=42), ranks=ranks)
    generator_batches = SyntheticBatches(Ensemble([fresh().generator.float()]), 22, 4, seed=3)
    results["samples"] = calibrate(observe, generator_batches, options=CalibrationOptions(), ranks=ranks)
    results["one batch"] = calibrate(observe, one, options=CalibrationOptions(), ranks=ranks)
    return results


def no_inputs(ranks: Ranks) -> str:
    """The error of a calibration without inputs."""
    empty = TensorBatches(torch.zeros(0, 1, 2, 2), torch.zeros(0, dtype=torch.int64))
    try:
        calibrate(lambda x: {"x": x}, empty, options=CalibrationOptions(), ranks=ranks)
    except CalibrationError as error:
        return str(error)
    raise AssertionError("expected a CalibrationError")


def messages(ranks: Ranks) -> dict[str, Any]:
    """What the calls of Ranks give for values that differ by rank."""
    return {
        "parts": ranks.parts(torch.tensor([[float(ranks.rank), 7.0]])),
        "mean": ranks.mean(torch.tensor([2.0 * ranks.rank])),
        "any": [ranks.any(False), ranks.any(ranks.rank == 1), ranks.any(True)],
        "gathered": ranks.gathered({"rank": ranks.rank, "x": torch.tensor(ranks.rank)}),
        "from_first": ranks.from_first(f"rank {ranks.rank}"),
        "share": ranks.share(torch.arange(4)),
    }


def everything(ranks: Ranks, folder: Path) -> dict[str, Any]:
    """All of the above by name; ``folder`` has the checkpoint of a single process."""
    return {
        "messages": messages(ranks),
        "first step": first_step(ranks, torch.float64),
        "first step in float32": first_step(ranks, torch.float32),
        "whole run": whole_run(ranks),
        "resumed": resumed(ranks, folder),
        "with a broken step": with_a_broken_step(ranks),
        "never finite": never_finite(ranks),
        "ranges": ranges(ranks),
        "no inputs": no_inputs(ranks),
    }


def left_behind(ranks: Ranks) -> bool:
    """Whether the first rank notices that the others are gone."""
    if not ranks.first:
        ranks.leave()
        return True
    try:
        ranks.mean(torch.zeros(3))
    except RankLostError:
        return True
    finally:
        ranks.leave()
    return False


def main(rank: int, world: int, folder: Path) -> None:
    from torch import distributed

    torch.set_num_threads(1)
    ranks = Ranks(rank, world)
    ranks.join(distributed.FileStore(str(folder / "store"), world))
    results = everything(ranks, folder)
    results["stopped"] = stopped(ranks, folder / "two")
    results["left behind"] = left_behind(ranks)
    torch.save(results, folder / f"{rank}.pt")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
