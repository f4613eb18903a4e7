"""The hub is asked once, and only where its answer matters."""

from collections.abc import Callable
from pathlib import Path

import pytest

from converter.load.bodies.hub import require_hub

huggingface_hub = pytest.importorskip("huggingface_hub")


class ConnectTimeoutError(Exception):
    """Of a name such as httpx and requests have."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Callable[[Exception | None], list[str]]:
    """A hub that answers with the error; the list of URLs that it was asked for."""

    def answering(error: Exception | None) -> list[str]:
        urls: list[str] = []

        def answer(url: str) -> None:
            urls.append(url)
            if error is not None:
                raise error

        monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", answer)
        return urls

    return answering


def test_a_dead_network_ends_it(asked: Callable[[Exception | None], list[str]]) -> None:
    urls = asked(OSError("Name or service not known"))
    with pytest.raises(OSError, match="Name or service"):
        require_hub("timm/no_such_network")
    (url,) = urls
    assert url.endswith("/timm/no_such_network/resolve/main/model.safetensors")


@pytest.mark.parametrize("error", [None, ConnectTimeoutError("slow")])
def test_a_slow_hub_is_left_to_its_client(
    asked: Callable[[Exception | None], list[str]], error: Exception | None
) -> None:
    urls = asked(error)
    require_hub("timm/no_such_network@1234")
    (url,) = urls
    assert "/resolve/1234/" in url


def test_an_answer_that_is_an_error_is_left_to_its_client(
    asked: Callable[[Exception | None], list[str]],
) -> None:
    from huggingface_hub.errors import HfHubHTTPError

    urls = asked(HfHubHTTPError.__new__(HfHubHTTPError))  # its arguments depend on the client's version
    require_hub("timm/no_such_network")
    assert len(urls) == 1


def test_weights_in_the_cache_need_no_hub(
    asked: Callable[[Exception | None], list[str]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    urls = asked(OSError("Name or service not known"))
    found = str(tmp_path / "pytorch_model.bin")
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda repo_id, filename, revision: found if filename == "pytorch_model.bin" else None,
    )
    require_hub("timm/network")
    assert urls == []
