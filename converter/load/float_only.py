"""TorchScript that is no longer the float network: quantized, or rewritten for one kind of machine."""

import re
import zipfile
from pathlib import Path

from converter.errors import LoadError

_LOWERED = (
    (
        re.compile(rb"\bops\.quantized\.|\bclasses\.quantized\.|\btorch\.quantize_per_"),
        "is already quantized; expected the float model",
    ),
    (
        re.compile(rb"\bops\.(?:prepacked|vulkan_prepack|metal_prepack)\.|\bclasses\.xnnpack\."),
        "was made for mobile (optimize_for_mobile), with weights that only its kernels read",
    ),
    (
        re.compile(rb"\bops\.prim\.(?:ConstantMKLDNNTensor|mkldnn_convolution)\b"),
        "was made for one kind of CPU (torch.jit.optimize_for_inference), with weights that only its kernels read",
    ),
)


def refuse_lowered(path: Path) -> None:
    """Raise LoadError where the code of the TorchScript archive ``path`` calls kernels for other than float weights."""
    try:
        with zipfile.ZipFile(path) as archive:
            code = b"\n".join(archive.read(name) for name in archive.namelist() if name.endswith(".py"))
    except zipfile.BadZipFile as error:
        raise LoadError(f"{path} is truncated or damaged ({error}); copy or download it again") from error
    for calls, what in _LOWERED:
        if calls.search(code):
            raise LoadError(
                f"{path} {what}. Give the float state_dict, torch.save(model.state_dict(), 'weights.pth'), with --arch "
                "file.py:callable"
            )
