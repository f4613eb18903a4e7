"""Networks of Hugging Face's transformers, built from the ``config.json`` beside their weights.

Nothing is fetched and no code of the folder runs: a configuration that asks for either is refused.
"""

import copy
import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from converter.errors import ArchitectureError, LoadError
from converter.load.folder import json_from
from converter.load.state_dict import State
from zscgan_common.text import cut, first_line

TRANSFORMERS_EXTRA = 'pip install "zscgan-convert[transformers]"'
_RESULTS = ("logits", "pred_boxes", "pooler_output", "last_hidden_state")
"""What a network returns, by the most useful first; boxes come beside their logits."""


class ImagesToTensors(nn.Module):
    """``network`` of transformers, which takes the images alone and returns its results as plain tensors.

    These are the logits, for a detector with the boxes; of a network without logits its pooled or last features.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        result = self.network(pixel_values=x, return_dict=True)
        found = [result[name] for name in _RESULTS if result.get(name) is not None]
        if "pred_boxes" in result:
            return (found[0], found[1])
        first: Tensor = found[0]
        return first.flatten(1) if first.shape[2:] == (1, 1) else first


def network_of_transformers(folder: Path, name: str, state: State) -> tuple[nn.Module, tuple[str, ...]]:
    """The network that ``config.json`` in ``folder`` describes, of the class ``name``, with ``state`` in it.

    Also a note where tensors were skipped. Raises LoadError without transformers, for what isn't a network of images
    alone, and ArchitectureError where weights and configuration don't fit.
    """
    file = folder / "config.json"
    if "auto_map" in (given := json_from(file)) and not given.get("model_type"):
        raise LoadError(_needs_code(file))
    try:
        with _offline():
            transformers = importlib.import_module("transformers")
            kind = getattr(transformers, name, None)
            if kind is None or not issubclass(kind, transformers.PreTrainedModel):
                raise LoadError(
                    f"{file} is of {name}, which transformers {transformers.__version__} lacks: {_needs_code(file)}"
                )
            _require_images(kind, file)
            config = transformers.AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
            network, info = kind.from_pretrained(
                None,
                config=_plain(config),
                state_dict=dict(state),
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                attn_implementation="eager",
            )
    except ImportError as error:
        raise LoadError(
            f"{file} is of transformers ({name}), which builds the network: {TRANSFORMERS_EXTRA} ({first_line(error)})"
        ) from error
    except LoadError:
        raise
    except Exception as error:  # a configuration can be wrong in any way that its class doesn't check
        raise LoadError(f"transformers can't build {name} from {file}: {first_line(error)}") from error
    return ImagesToTensors(network), _notes(info, state, name, file)


def _plain(config: Any) -> Any:
    """``config`` that asks for nothing but float weights, which are there, and for no weights of a backbone."""
    config = copy.deepcopy(config)
    part = config
    while part is not None:
        for key in ("use_pretrained_backbone", "output_hidden_states", "output_attentions"):
            if getattr(part, key, None):
                setattr(part, key, False)
        part = getattr(part, "backbone_config", None)
    config.dtype = None
    return config


def _require_images(kind: Any, file: Path) -> None:
    if getattr(kind, "main_input_name", None) != "pixel_values":
        raise LoadError(
            f"{file} is of {kind.__name__}, whose input is {getattr(kind, 'main_input_name', 'unknown')}; expected a "
            "network whose only input is an image, such as ResNetForImageClassification"
        )


def _needs_code(file: Path) -> str:
    return (
        f"{file} needs code that isn't part of transformers, which never runs here; write a function that builds the "
        "network and name it: --arch file.py:callable"
    )


def _notes(info: Mapping[str, Any], state: State, name: str, file: Path) -> tuple[str, ...]:
    """What was skipped; raises ArchitectureError where the weights lack something."""
    unknown = sorted(info["unexpected_keys"])
    parts = [
        f"{len(keys)} {what}: {cut(keys, 3)}"
        for what, keys in (
            ("missing from the weights", sorted(info["missing_keys"])),
            ("of another shape", sorted(str(entry[0]) for entry in info["mismatched_keys"])),
            ("unknown to the network", unknown if 2 * len(unknown) > len(state) else []),
        )
        if keys
    ]
    if parts:
        raise ArchitectureError(
            f"the weights don't fit the {name} of {file}; tensors {'; '.join(parts)}. Is it the config.json of another "
            "network? Name the right one: --arch"
        )
    return (
        (f"skipped what {name} lacks, {len(unknown)} of the tensors: {cut(unknown, 3)}",) if unknown else ()
    )


@contextmanager
def _offline() -> Iterator[None]:
    """While inside, nothing is fetched from Hugging Face, and transformers prints nothing."""
    constants: Any = importlib.import_module("huggingface_hub.constants")
    logs: Any = importlib.import_module("transformers.utils.logging")
    offline, level, bars = constants.HF_HUB_OFFLINE, logs.get_verbosity(), logs.is_progress_bar_enabled()
    constants.HF_HUB_OFFLINE = True
    logs.set_verbosity(logs.CRITICAL)
    logs.disable_progress_bar()
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()
