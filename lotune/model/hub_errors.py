"""What went wrong when the hub did not provide a model, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator

MODELSCOPE = "modelscope download --model NAME --local_dir FOLDER"
"""The command that downloads most of the hub's models from ModelScope."""
MIRROR = f"set HF_ENDPOINT to a mirror, or download it ({MODELSCOPE}) and name the folder"


def hub_fault(name: str, error: BaseException) -> tuple[str, str]:
    """Return what an error of the hub's libraries means for the model `name`, and the remedy."""
    from huggingface_hub import errors

    chain = list(_chain(error))
    if any(isinstance(cause, errors.GatedRepoError) for cause in chain):
        found = "is on the hub, but its licence was not accepted with this account"
        return found, f"accept it on huggingface.co/{name} and run `hf auth login`, or name the folder of a copy"
    if any(isinstance(cause, errors.RepositoryNotFoundError) for cause in chain):
        remedy = "check the name; a private model needs `hf auth login`; or name the folder of a downloaded one"
        return "is no local folder, and the hub has no model of that name", remedy
    if any(isinstance(cause, errors.RevisionNotFoundError | errors.HFValidationError) for cause in chain):
        return f"is no local folder and no name on the hub: {_short(chain[-1])}", "check the name"
    if any(isinstance(cause, errors.OfflineModeIsEnabled) or _is_missing_offline(cause) for cause in chain):
        found = "is neither a local folder nor downloaded, and HF_HUB_OFFLINE keeps off the network"
        return found, f"unset HF_HUB_OFFLINE, or download it ({MODELSCOPE}) and name the folder"
    if any(_is_connection_error(cause) for cause in chain):
        return "is no local folder, and the hub cannot be reached", MIRROR
    found = f"is no local folder, and the hub did not provide it: {_short(error)}"
    return found, "check the name and the connection, or give the folder of a downloaded model"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_connection_error(error: BaseException) -> bool:
    # By name, as the hub's libraries have changed the client whose errors these are.
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ConnectionError", "TimeoutError", "TransportError", "LocalEntryNotFoundError"})


def _is_missing_offline(error: BaseException) -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) and isinstance(error, FileNotFoundError)


def _short(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
