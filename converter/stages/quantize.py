"""The stage that writes the INT8 model."""

import onnx

from calibrators.ranges.ranges import Ranges
from converter.graph.capture import FoldedGraph, as_written
from converter.job import Job
from converter.quantize.float_share import float_macs_percent
from converter.quantize.placement import QuantizationPlan
from converter.quantize.qdq import qdq_from_onnx
from converter.stages.head import with_tail
from converter.workspace import INT8_ONNX
from zscgan_common.files import write_atomic


def quantize(job: Job, graph: FoldedGraph, plan: QuantizationPlan, ranges: Ranges) -> float:
    """The INT8 ONNX with Q/DQ in the workspace, checked by ``onnx.checker``; percent of multiply-adds left in float."""
    with job.console.stage("quantize") as stage:
        head = as_written(qdq_from_onnx(graph.onnx, plan, ranges.amax))
        onnx.checker.check_model(head, full_check=True)
        model = with_tail(job, head)
        onnx.checker.check_model(model)
        write_atomic(job.workspace.path(INT8_ONNX), model.SerializeToString())
        percent = float_macs_percent(graph.onnx, plan)
        in_float = f", {percent:.1f} % of the multiply-adds in float" if percent else ""
        counts = f"{len(plan.weights)} weights and {len(plan.activations)} activations"
        stage.detail = f"{counts} in INT8{in_float} -> {INT8_ONNX}"
    return percent
