"""The part of what was written that is judged: all before a tail that chooses."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from converter.job import Job


def with_tail(job: Job, model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, as it is to be written, with the network's tail behind it, if there is one."""
    tail = job.teacher.tail
    return model if tail is None else tail.attached_to(model)


@contextmanager
def head_file(job: Job, name: str) -> Iterator[Path]:
    """The model ``name`` of the workspace, without its tail."""
    path, tail = job.workspace.path(name), job.teacher.tail
    if tail is None:
        yield path
        return
    with TemporaryDirectory() as folder:
        head = Path(folder) / name
        onnx.save_model(tail.taken_off(onnx.load(path)), head)
        yield head
