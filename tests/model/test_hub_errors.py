"""A name on the hub that cannot be loaded: each cause has a message of its own, with a way to go on."""

from __future__ import annotations

from typing import Any

import pytest

from lotune.errors import ModelError
from lotune.model.loading import load_model, load_tokenizer
from lotune.model.settings import BaseSettings

NAME = "someone/some-model"


def response(status: int) -> Any:
    from huggingface_hub import errors

    module = __import__(errors.HTTPError.__module__.partition(".")[0])
    request = module.Request("GET", f"https://huggingface.co/{NAME}/resolve/main/config.json")
    return module.Response(status, request=request)


def causes() -> dict[str, tuple[BaseException, str, str]]:
    from huggingface_hub import errors

    return {
        "gated": (
            errors.GatedRepoError("403 Client Error: access is restricted", response=response(403)),
            "licence was not accepted", "hf auth login",
        ),
        "unknown": (
            errors.RepositoryNotFoundError("404 Client Error", response=response(404)),
            "the hub has no model of that name", "check the name",
        ),
        "offline": (errors.OfflineModeIsEnabled("offline mode is enabled"), "HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE"),
        "connection": (ConnectionError("Name or service not known"), "the hub cannot be reached", "HF_ENDPOINT"),
        "timeout": (TimeoutError("timed out"), "the hub cannot be reached", "HF_ENDPOINT"),
        "no cache": (errors.LocalEntryNotFoundError("no file in the cache"), "not be reached", "modelscope download"),
        "other": (errors.HfHubHTTPError("500 Server Error", response=response(500)), "did not provide it", "folder"),
    }  # fmt: skip


@pytest.mark.parametrize("cause", ["gated", "unknown", "offline", "connection", "timeout", "no cache", "other"])
def test_each_fault_of_the_hub_has_its_own_message(cause: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error, found, remedy = causes()[cause]

    def fail(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("transformers.utils.hub.hf_hub_download", fail)
    monkeypatch.setattr("socket.getaddrinfo", fail)  # no test waits for a network
    for work in (lambda: load_model(BaseSettings(model=NAME), "cpu"), lambda: load_tokenizer(BaseSettings(model=NAME))):
        with pytest.raises(ModelError) as caught:
            work()
        assert caught.value.where == NAME
        assert found in caught.value.found
        assert remedy in caught.value.remedy
        assert str(caught.value).count("\n") == 2


def test_a_model_that_was_not_downloaded_cannot_be_loaded_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match=r"(?s)HF_HUB_OFFLINE keeps off the network.*remedy: unset HF_HUB_OFFLINE"):
        load_model(BaseSettings(model=NAME), "cpu")
