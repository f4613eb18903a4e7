"""Reading and writing engine files."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engines.errors import BuildError


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    Folders are made as needed. On an error ``path`` stays as it was and the temporary file goes.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise BuildError(f"expected a place to write {path} to: {error.strerror}") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    except OSError as error:
        raise BuildError(f"could not write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def existing_file(path: Path) -> Path:
    """``path``, which must be a file that holds something."""
    if not path.is_file():
        raise BuildError(
            f"expected an ONNX file, but {path} {'is a folder' if path.is_dir() else 'is missing'}"
        )
    if path.stat().st_size == 0:
        raise BuildError(f"expected an ONNX file, but {path} is empty")
    return path
