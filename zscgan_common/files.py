"""Files that are either whole or not there."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """A hidden file beside ``path`` to write to; it takes the place of ``path`` when the block ends well.

    A reader sees the old file or the new one, never half of it. Folders are made as needed. On an error ``path`` stays
    as it was and the hidden file goes.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    draft.touch(exist_ok=False)
    try:
        yield draft
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def write_atomic(path: Path | str, data: bytes | str) -> Path:
    """``path`` with ``data`` in it, as ``replaced_file``. Text is written as UTF-8 with its line ends as they are."""
    path = Path(path)
    with replaced_file(path) as draft, draft.open("wb") as file:
        file.write(data.encode() if isinstance(data, str) else data)
        file.flush()
        os.fsync(file.fileno())
    return path
