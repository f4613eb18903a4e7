"""Whether the hub of timm's weights can be reached."""

from typing import Any

_FILES = "model.safetensors", "pytorch_model.bin"
"""What timm's repositories have; its own loader asks for them in this order."""


def require_hub(repository: str) -> None:
    """Raise what stops one request to the hub, where weights of ``repository`` are not in its cache.

    Without a network the hub's client repeats its requests for about 45 s, and no setting of it changes that. A hub
    that answers slowly, or with an error, is left to the client. ``repository`` may end in ``@`` and a revision.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    name, _, revision = repository.partition("@")
    where: dict[str, Any] = {"repo_id": name, "revision": revision or None}
    if any(isinstance(huggingface_hub.try_to_load_from_cache(filename=f, **where), str) for f in _FILES):
        return
    try:
        huggingface_hub.get_hf_file_metadata(huggingface_hub.hf_hub_url(filename=_FILES[0], **where))
    except HfHubHTTPError:  # it answered
        return
    except Exception as error:  # of requests or httpx, by the version of the client
        if "Timeout" not in type(error).__name__:
            raise
