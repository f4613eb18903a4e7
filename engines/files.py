"""Reading and writing engine files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.errors import BuildError
from zscgan_common import files


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """``zscgan_common.files.replaced_file``; raises BuildError where ``path`` can't be written."""
    try:
        with files.replaced_file(path) as draft:
            yield draft
    except OSError as error:
        raise BuildError(f"failed to write {path}: {error.strerror}") from error


def existing_file(path: Path) -> Path:
    """``path``, which must be a file that holds something."""
    if not path.is_file():
        raise BuildError(
            f"expected an ONNX file, but {path} {'is a folder' if path.is_dir() else 'is missing'}"
        )
    if path.stat().st_size == 0:
        raise BuildError(f"expected an ONNX file, but {path} is empty")
    return path
