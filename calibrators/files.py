"""Files that are either whole or not there."""

import os
import secrets
from pathlib import Path


def write_atomic(path: Path | str, data: bytes | str) -> Path:
    """``path`` with ``data`` in it; a reader sees the old file or the new one, never half of it.

    Text is written as UTF-8 with its line ends as they are. Missing folders are made. The data goes to a
    hidden file in the same folder, which then takes the name (``os.replace``); if anything fails, that file
    is removed and the old one stays.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    return path
