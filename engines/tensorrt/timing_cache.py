"""TensorRT's timing cache: what a build measured, for the next build on the same GPU."""

from pathlib import Path

from engines.errors import BuildError
from engines.files import replaced_file
from engines.tensorrt.api import IBuilderConfig, ITimingCache
from engines.tensorrt.build_log import BuildLog

_MEND = "delete it or name another file"


def attach_timing_cache(config: IBuilderConfig, path: Path, log: BuildLog) -> ITimingCache:
    """The cache of ``path``, or a new one where there is no such file; ``config`` uses it.

    Raises BuildError for a file that is no timing cache, or is one of another GPU or version of TensorRT:
    measurements of other kernels would only slow the plan down.
    """
    try:
        content = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise BuildError(f"expected to read --timing-cache {path}: {error.strerror}") from error
    log.errors.clear()
    cache: ITimingCache | None = config.create_timing_cache(content)
    # A file that it can't read: TensorRT logs an error and goes on, some versions with an empty cache.
    if cache is None or log.errors:
        reason = log.reason or "TensorRT can't read it"
        raise BuildError(f"--timing-cache {path} is no timing cache: {reason}; {_MEND}")
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        reason = log.reason or "it was measured on another GPU or by another version of TensorRT"
        raise BuildError(f"--timing-cache {path} does not fit here: {reason}; {_MEND}")
    return cache


def save_timing_cache(cache: ITimingCache, path: Path) -> None:
    """Writes ``cache`` in the place of ``path``."""
    content = memoryview(cache.serialize()).tobytes()
    with replaced_file(path) as temporary:
        temporary.write_bytes(content)
