"""What ``zscgan-bench`` tells of the GPU: the rules that it measured by, and what the GPU did meanwhile."""

from collections.abc import Callable, Mapping
from typing import Any

from engines.bench.gpu_watch import GpuWatch
from engines.memory.base import Device
from engines.options import BenchOptions
from engines.tensorrt.queries import rules_followed


def say_rules(device: Device, options: BenchOptions, say: Callable[[str], None]) -> None:
    """One line before the measurement."""
    streams = f", {options.streams} streams" if options.streams > 1 else ""
    say(f"On {device.gpu}, memory by {device.name}: {rules_followed(options)}{streams}.")


def gpu_entry(device: Device, options: BenchOptions, watch: GpuWatch) -> dict[str, Any]:
    """The JSON's entry: the GPU, the rules, its state before and after, what it did meanwhile and what is doubtful.

    ``state_reason`` says why the state could not be read, where that is so.
    """
    before, after, activity = watch.before, watch.after, watch.activity
    reason = after.reason or before.reason
    return {
        "name": device.gpu,
        "buffers": device.name,
        "rules": rules_followed(options),
        "cuda_graph": options.cuda_graph,
        "transfers": options.transfers,
        "streams": options.streams,
        "before": before.state and before.state.to_json(),
        "after": after.state and after.state.to_json(),
        "during": activity and activity.to_json(),
        **({"state_reason": reason} if reason else {}),
        "warnings": list(map(str, activity.warnings())) if activity is not None else [],
    }


def say_doubts(entry: Mapping[str, Any], say: Callable[[str], None]) -> None:
    """A line for each doubt in ``gpu_entry``."""
    if "state_reason" in entry:
        say(f"note: {entry['state_reason']}")
    for warning in entry["warnings"]:
        say(f"warning: {warning}")
