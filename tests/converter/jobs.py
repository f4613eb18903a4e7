"""Jobs that were not read from any file."""

from pathlib import Path
from typing import Any

import torch

from calibrators.data.input_spec import InputSpec
from calibrators.distributed import SINGLE
from converter.console import Console
from converter.job import Job
from converter.load.model import Teacher
from converter.load.options import ModelOptions
from converter.options import ConvertOptions
from converter.trust.task.classes import Classes
from converter.workspace import Workspace


def job_of(**fields: Any) -> Job:
    """A job of a network that is never run, with ``fields`` in place of what is usual."""
    teacher = Teacher(
        torch.nn.Identity(), InputSpec((1, 8, 8)), {"logits": torch.zeros(4, 10)}, None, "mine", "", 0, 0
    )
    usual: dict[str, Any] = {
        "options": ConvertOptions(ModelOptions("mine.pth")),
        "console": Console(),
        "ranks": SINGLE,
        "workspace": Workspace(Path("out")),
        "teacher": teacher,
        "task": Classes(10),
        "fingerprint": "",
        "ranges_for": "",
        "device": torch.device("cpu"),
        "engine": "onnxruntime",
        "batch": 4,
    }
    return Job(**(usual | fields))
