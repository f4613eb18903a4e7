"""Stopping and going on: the training state in a file, with the key of the run that it belongs to."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

from calibrators.data.input_spec import InputSpec
from calibrators.errors import GeneratorError
from calibrators.zscgan.options import ZSCGANOptions
from calibrators.zscgan.sampling import VERSION, bytes_of_torch, load_torch
from calibrators.zscgan.training import Resumable
from zscgan_common.files import write_atomic

SAVE_EVERY_S = 20.0
_DIGEST_BYTES = hashlib.sha256().digest_size


def run_key(fingerprint: str, spec: InputSpec, options: ZSCGANOptions) -> str:
    """A name for all that decides the result of a training run: of guidance, only whether there is any."""
    options = replace(options, guide_steps=min(1, options.guide_steps), guide_rate=0.0)
    return hashlib.sha256(repr((VERSION, fingerprint, asdict(spec), asdict(options))).encode()).hexdigest()


def save_checkpoint(state: Resumable, path: Path, key: str) -> Path:
    """Write the state, whole or not at all, behind its digest."""
    content = bytes_of_torch({"key": key, **state.dump()})
    return write_atomic(path, _digest(content) + content)


def restore_checkpoint(state: Resumable, path: Path, key: str) -> bool:
    """Go on from the file, if it belongs to the same run; says whether it did.

    A file of another run (other weights, options or seed) or a broken one is left aside: training then
    starts anew.
    """
    try:
        content = path.read_bytes()
        digest, content = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
        # Whatever is damaged: a state that is wrong somewhere would only fail in the middle of the training.
        if digest != _digest(content):
            return False
        document = load_torch(path, content)
    except (OSError, GeneratorError):
        return False
    if document.get("key") != key:
        return False
    state.restore(document)
    return True


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def checkpointing(path: Path, key: str, every_s: float = SAVE_EVERY_S) -> Callable[[Resumable], None]:
    """A callback for each step that saves the state every ``every_s`` seconds."""
    saved = time.monotonic()

    def save_sometimes(state: Resumable) -> None:
        nonlocal saved
        if time.monotonic() - saved >= every_s:
            save_checkpoint(state, path, key)
            saved = time.monotonic()

    return save_sometimes
