"""Weights that are no network of images, told by the names of their tensors."""

import re
from pathlib import Path

from converter.errors import LoadError
from converter.load.state_dict import EXPECTED, State
from zscgan_common.text import cut

_KINDS = (
    (
        r"(^|\.)(lora_(A|B|up|down)|lora_embedding_[AB]|hada_w1_a|lokr_w1)(\.|$)",
        "an adapter (LoRA), which only changes another network",
        "merge it into that network first, with merge_and_unload() of peft, and save the whole",
    ),
    (
        r"(^|\.)(embed_tokens|lm_head|wte|word_embeddings|token_embedding|tok_embeddings|embed_positions)\.weight$",
        "a network of text, with an embedding of tokens",
        "expected a network whose only input is an image",
    ),
    (
        r"(^|\.)(time_embed\.0|time_embedding\.linear_1|diffusion_model\..+)\.weight$",
        "a network for diffusion, which takes the time beside the image",
        "expected a network whose only input is an image",
    ),
)


_DEEP_STEM = re.compile(r"^backbone\.stem\.\d+\.(conv\.)?weight$")


def refuse_other_kinds(state: State, path: Path) -> None:
    """Raise LoadError for weights of an adapter, of a network of text, of one for diffusion, or of MMPretrain alone."""
    for pattern, kind, advice in _KINDS:
        names = [name for name in state if re.search(pattern, name)]
        if names:
            raise LoadError(f"{path} is {kind} ({cut(names, 2)}); {advice}. In general: {EXPECTED}")
    if "backbone.layer1.0.conv1.weight" in state and any(_DEEP_STEM.search(name) for name in state):
        raise LoadError(
            f"{path} is MMPretrain's ResNet with a deep stem (ResNetV1c or V1d: backbone.stem), which torchvision "
            "lacks; write a function that returns the network, and name it: --arch file.py:callable"
        )
