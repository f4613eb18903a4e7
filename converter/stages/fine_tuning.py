"""The stage that fine-tunes: with progress, checkpoints and a clean stop, and a check of what it hands on."""

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import torch

from calibrators.fingerprint import fingerprint, fingerprint_for_input
from calibrators.ranges.ranges import Ranges
from calibrators.zscgan.resume import SAVE_EVERY_S, checkpointing, restore_checkpoint, save_checkpoint
from converter.graph.capture import FoldedGraph, as_written
from converter.job import Job
from converter.qat.data import Images, Samples, Source
from converter.qat.fine_tune import FineTuned, fine_tune_graph, new_tuning
from converter.qat.options import QATOptions
from converter.qat.run_key import run_key
from converter.qat.training import TuningState
from converter.quantize.placement import QuantizationPlan
from converter.quantize.qdq import qdq_from_onnx
from converter.report.document import BeforeAndAfter, ParitySection, QATSection, TuningStep
from converter.samples import SampleSource
from converter.signals import InterruptAfterStep
from converter.trust.limits import QDQ_LIMITS
from converter.trust.parity import difference, largest_difference, literal_outputs
from converter.trust.task.base import Task
from zscgan_common.warning_message import WarningMessage

RECENT = 20
PARITY_INPUTS = 128


@dataclass(frozen=True)
class Tuned:
    """The graph and the ranges of the INT8 network, and the fine-tuning's section of the report."""

    graph: FoldedGraph
    ranges: Ranges
    section: QATSection | None = None


def fine_tune(
    job: Job,
    graph: FoldedGraph,
    plan: QuantizationPlan,
    ranges: Ranges,
    samples: SampleSource | None,
) -> Tuned:
    """Fine-tuned weights and ranges with --qat, unless these are no better.

    The ranges belong to the weights of the graph that comes back, and are for the plan's tensors alone.
    """
    qat = job.options.qat
    if qat is None:
        return Tuned(graph, ranges)
    with job.console.stage("qat") as stage:
        tuned = tune_together(job, graph, plan, ranges.amax, samples)
        parity, missed = parity_with_onnx(tuned, plan, job.task, source_of(job, samples))
        stage.detail = (
            f"{len(tuned.losses)} steps, {tuned.qat.agreement:.2f} % agreement on held-out inputs "
            f"({tuned.ptq.agreement:.2f} % before), {tuned.kept.upper()} kept"
        )
    section = section_of(tuned, qat, source_of(job, samples), parity)
    if missed:
        job.console.warn(
            WarningMessage(
                "qat-parity",
                f"the fine-tuned network in PyTorch and the Q/DQ model differ more than rounding does: {missed}",
                "Measure the INT8 model with --val before you use it; without --qat the original weights are kept.",
            )
        )
    if tuned.kept == "ptq":
        job.console.info(
            "note: fine-tuning brought INT8 no nearer to FP32 on held-out inputs; weights and ranges stay as they were"
        )
        return Tuned(graph, ranges, section)
    weights = fingerprint(tuned.graph.module.state_dict())
    made_for = fingerprint_for_input(weights, job.teacher.spec)
    return Tuned(tuned.graph, replace(ranges, amax=tuned.amax, fingerprint=made_for), section)


def tune_together(
    job: Job,
    graph: FoldedGraph,
    plan: QuantizationPlan,
    amax: Mapping[str, float],
    samples: SampleSource | None,
) -> FineTuned:
    """The fine-tuning of all ranks, each of which calls this; the first has ``amax`` and saves the state.

    Raises KeyboardInterrupt, on all ranks, after the step in which a signal came.
    """
    qat, ranks = job.options.qat, job.ranks
    assert qat is not None
    checkpoint = job.checkpoint(job.workspace.qat_checkpoint)
    amax = ranks.from_first(dict(amax))
    source = source_of(job, samples)
    state = new_tuning(graph, plan, amax, qat)
    key = run_key(job.fingerprint, data_key(job, samples), plan, amax, qat)
    if checkpoint is not None and restore_checkpoint(state, checkpoint, key):
        job.console.info(
            f"going on from step {state.step} of {qat.steps} of the fine-tuning, saved by an earlier run"
        )
    save_sometimes = checkpointing(checkpoint, key) if checkpoint is not None else lambda _: None
    with InterruptAfterStep() as interrupt, job.console.progress("qat", qat.steps) as advance:

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

        tuned = fine_tune_graph(
            graph, plan, amax, job.task, source, qat, state=state, on_step=on_step, ranks=ranks
        )
    if checkpoint is not None and tuned.seconds > SAVE_EVERY_S:  # worth keeping if a later stage fails
        save_checkpoint(state, checkpoint, key)
    return tuned


def source_of(job: Job, samples: SampleSource | None) -> Source:
    """The images of --qat-data, else samples."""
    qat = job.options.qat
    assert qat is not None
    if job.qat is not None:
        return Images(job.qat, job.batch, qat.seed, job.device)
    assert samples is not None
    return Samples(samples, job.batch, qat.seed)


def data_key(job: Job, samples: SampleSource | None) -> str:
    """A name for the inputs: of the samples, or of the images by their places."""
    if job.qat is not None:
        images = job.qat
        named = repr((job.batch, images.spec, images.paths, images.resize, images.crop))
    else:
        assert samples is not None
        named = repr((job.batch, samples.key))
    return hashlib.sha256(named.encode()).hexdigest()


def parity_with_onnx(
    tuned: FineTuned, plan: QuantizationPlan, task: Task, source: Source
) -> tuple[ParitySection, str]:
    """The network that was trained beside its Q/DQ model, computed literally, on held-out inputs; limits missed."""
    x = torch.cat([some for some, _ in source.held_out()])[:PARITY_INPUTS]
    with torch.no_grad():
        ours = tuple(output.cpu().numpy() for output in tuned.student(x))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(as_written(qdq_from_onnx(tuned.graph.onnx, plan, tuned.amax)), path)
        theirs = literal_outputs(path, x.cpu().contiguous().numpy())
    found = difference(theirs, ours, task)
    parity = ParitySection(largest_difference(theirs, ours), found.agreement)
    return parity, "; ".join(found.missed(QDQ_LIMITS))


def section_of(tuned: FineTuned, options: QATOptions, source: Source, parity: ParitySection) -> QATSection:
    """The report's ``qat``."""
    scores = tuned.scores
    return QATSection(
        backend=options.backend,
        steps=len(tuned.losses),
        seconds=round(tuned.seconds, 3),
        data=source.name,
        kept=tuned.kept,
        agreement=BeforeAndAfter(tuned.ptq.agreement, tuned.qat.agreement),
        kl=BeforeAndAfter(tuned.ptq.kl, tuned.qat.kl),
        parity=parity,
        history=[
            TuningStep(step, loss, scores[step].agreement if step in scores else None)
            for step, loss in enumerate(tuned.losses, 1)
        ],
    )
