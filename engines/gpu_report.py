"""What ``zscgan-bench`` tells of the GPU: the rules that it measured by, and what the GPU did meanwhile."""

from collections.abc import Callable

from engines.buffers.base import Device
from engines.gpu_queries import rules_followed
from engines.gpu_state import Reading, state_warnings
from engines.options import BenchOptions


def say_rules(device: Device, options: BenchOptions, say: Callable[[str], None]) -> None:
    """One line before the measurement."""
    streams = f", {options.streams} streams" if options.streams > 1 else ""
    say(f"On {device.gpu}, memory by {device.name}: {rules_followed(options)}{streams}.")


def gpu_entry(
    device: Device, options: BenchOptions, readings: tuple[Reading, Reading], say: Callable[[str], None]
) -> dict[str, object]:
    """The JSON's entry: the GPU, the rules, and its state before and after; ``say`` is told what is doubtful."""
    before, after = readings
    warnings = state_warnings(before.state, after.state)
    reason = after.reason or before.reason
    if reason:
        say(f"note: {reason}")
    for warning in warnings:
        say(f"warning: {warning}")
    return {
        "name": device.gpu,
        "buffers": device.name,
        "rules": rules_followed(options),
        "cuda_graph": options.cuda_graph,
        "transfers": options.transfers,
        "streams": options.streams,
        "before": before.state and before.state.to_json(),
        "after": after.state and after.state.to_json(),
        **({"state_reason": reason} if reason else {}),
        "warnings": warnings,
    }
