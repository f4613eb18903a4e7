"""The stage that fine-tunes: with progress, checkpoints and a clean stop, and a check of what it hands on."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from calibrators.distributed import ALONE, Ranks
from calibrators.fingerprint import fingerprint, fingerprint_for_input
from calibrators.ranges.ranges import Ranges
from calibrators.zscgan.resume import SAVE_EVERY_S, checkpointing, restore_checkpoint, save_checkpoint
from calibrators.zscgan.sampling import TrainedGenerator
from converter.console import Reporter
from converter.doctor.reference import literal_logits
from converter.graph.capture import FoldedGraph
from converter.job import Inputs
from converter.options import ConvertOptions
from converter.qat.data import Images, Samples, Source
from converter.qat.fine_tune import FineTuned, fine_tuned, untuned
from converter.qat.options import QATOptions
from converter.qat.run_key import run_key
from converter.qat.training import TuningState
from converter.quantize.placement import QuantizationPlan
from converter.quantize.qdq import qdq_from_onnx
from converter.report.document import Report
from converter.signals import InterruptAfterStep
from converter.trust.parity import QDQ_LIMITS, difference

RECENT = 20
PARITY_INPUTS = 128


def fine_tune(
    inputs: Inputs,
    options: ConvertOptions,
    graph: FoldedGraph,
    plan: QuantizationPlan,
    ranges: Ranges,
    generator: TrainedGenerator | None,
    checkpoint: Path,
    reporter: Reporter,
    report: Report,
    ranks: Ranks = ALONE,
) -> tuple[FoldedGraph, Ranges]:
    """The graph and the ranges of the INT8 network: fine-tuned ones with --qat, unless these are no better.

    The ranges belong to the weights of the graph that comes back, and are for the plan's tensors alone.
    """
    if options.qat is None:
        return graph, ranges
    with reporter.stage("qat") as stage:
        tuned = tuned_together(
            inputs, options, graph, plan, ranges.amax, generator, checkpoint, reporter, ranks
        )
        parity = parity_with_onnx(tuned, plan, source_of(inputs, options, generator))
        stage.detail = (
            f"{len(tuned.losses)} steps, {tuned.qat.agreement:.2f} % agreement on held-out inputs "
            f"({tuned.ptq.agreement:.2f} % before), {tuned.kept.upper()} kept"
        )
    report.qat = qat_entry(tuned, options.qat, source_of(inputs, options, generator), parity)
    if parity["missed"]:
        reporter.warn(
            f"the fine-tuned network in PyTorch and the Q/DQ model differ more than rounding does: {parity['missed']}"
        )
    if tuned.kept == "ptq":
        reporter.say(
            "note: fine-tuning brought INT8 no nearer to FP32 on held-out inputs; weights and ranges stay as they were"
        )
        return graph, ranges
    weights = fingerprint(tuned.graph.module.state_dict())
    made_for = fingerprint_for_input(weights, inputs.teacher.spec)
    return tuned.graph, replace(ranges, amax=tuned.amax, fingerprint=made_for)


def tuned_together(
    inputs: Inputs,
    options: ConvertOptions,
    graph: FoldedGraph,
    plan: QuantizationPlan,
    amax: Mapping[str, float],
    generator: TrainedGenerator | None,
    checkpoint: Path | None,
    reporter: Reporter,
    ranks: Ranks,
) -> FineTuned:
    """The fine-tuning of all ranks, each of which calls this; the first has ``amax`` and ``checkpoint``.

    Raises KeyboardInterrupt, on all ranks, after the step in which a signal came.
    """
    qat = options.qat
    assert qat is not None
    amax = ranks.from_first(dict(amax))
    source = source_of(inputs, options, generator)
    state = untuned(graph, plan, amax, qat)
    key = run_key(inputs.fingerprint, data_key(inputs, generator), plan, amax, qat)
    if checkpoint is not None and restore_checkpoint(state, checkpoint, key):
        reporter.say(
            f"going on from step {state.step} of {qat.steps} of the fine-tuning, saved by an earlier run"
        )
    save_sometimes = checkpointing(checkpoint, key) if checkpoint is not None else lambda _: None
    with InterruptAfterStep() as interrupt, reporter.progress("qat", qat.steps) as advance:

        def on_step(state: TuningState) -> None:
            recent = state.losses[-RECENT:]
            judged = state.scores[max(state.scores)]
            advance(state.step, f"loss {sum(recent) / len(recent):.4f}, agreement {judged.agreement:.2f} %")
            # Together: a rank that stopped alone would leave the others waiting.
            if ranks.any(interrupt.requested):
                if checkpoint is not None:
                    save_checkpoint(state, checkpoint, key)
                raise KeyboardInterrupt
            save_sometimes(state)

        tuned = fine_tuned(graph, plan, amax, source, qat, state=state, on_step=on_step, ranks=ranks)
    if checkpoint is not None and tuned.seconds > SAVE_EVERY_S:  # worth keeping if a later stage fails
        save_checkpoint(state, checkpoint, key)
    return tuned


def source_of(inputs: Inputs, options: ConvertOptions, generator: TrainedGenerator | None) -> Source:
    """The images of --qat-data, else samples."""
    assert options.qat is not None
    if inputs.qat is not None:
        return Images(inputs.qat, inputs.batch, options.qat.seed, inputs.device)
    assert generator is not None
    return Samples(generator.generator, inputs.batch, options.qat.seed)


def data_key(inputs: Inputs, generator: TrainedGenerator | None) -> str:
    """A name for the inputs: of the generator's weights, or of the images by their places."""
    if inputs.qat is not None:
        images = inputs.qat
        named = repr((inputs.batch, images.spec, images.paths, images.resize, images.crop))
    else:
        assert generator is not None
        named = repr((inputs.batch, fingerprint(generator.generator.state_dict())))
    return hashlib.sha256(named.encode()).hexdigest()


def parity_with_onnx(tuned: FineTuned, plan: QuantizationPlan, source: Source) -> dict[str, Any]:
    """The network that was trained beside its Q/DQ model, computed literally, on held-out inputs."""
    x = torch.cat([some for some, _ in source.held_out()])[:PARITY_INPUTS]
    with torch.no_grad():
        ours = tuned.student(x).cpu().numpy()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(qdq_from_onnx(tuned.graph.onnx, plan, tuned.amax), path)
        theirs = literal_logits(path, x.cpu().contiguous().numpy())
    found = difference(theirs, ours)
    return {
        "largest_logit_difference": float(np.abs(theirs - ours).max()),
        "agreement": found.agreement,
        "missed": "; ".join(found.missed(QDQ_LIMITS)),
    }


def qat_entry(
    tuned: FineTuned, options: QATOptions, source: Source, parity: Mapping[str, Any]
) -> dict[str, Any]:
    """The field ``qat`` of report.json."""
    scores = tuned.scores
    return {
        "backend": options.backend,
        "steps": len(tuned.losses),
        "seconds": round(tuned.seconds, 3),
        "data": source.name,
        "kept": tuned.kept,
        "agreement": {"ptq": tuned.ptq.agreement, "qat": tuned.qat.agreement},
        "kl": {"ptq": tuned.ptq.kl, "qat": tuned.qat.kl},
        "parity": {name: parity[name] for name in ("largest_logit_difference", "agreement")},
        "history": [
            {"step": step, "loss": loss, "agreement": scores[step].agreement if step in scores else None}
            for step, loss in enumerate(tuned.losses, 1)
        ],
    }
