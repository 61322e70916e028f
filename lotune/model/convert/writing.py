"""A converted model, written in Hugging Face's layout in parts of bounded size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from lotune.data.tokenizer_training import check_tokenizer
from lotune.errors import ModelError
from lotune.files import to_json
from lotune.model.checkpoints import atomic_folder
from lotune.model.convert.foreign import ForeignModel, StoredTensor, check_tensors
from lotune.model.loading import loading_errors_as_model_errors, silence_transformers
from lotune.model.token_ids import GENERATION
from lotune.model.weight_files import CONFIG, INDEX, WEIGHTS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARD_BYTES = 2 * 2**30
"""Size of a part of the weights, which is also the memory that a conversion needs besides its largest tensor."""
SPECIAL_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class Written:
    """What was written: number of parameters and files of weights, and their dtype."""

    parameters: int
    files: int
    dtype: str


def write_model(
    model: ForeignModel,
    tokenizer: PreTrainedTokenizerBase,
    target: Path,
    where: str,
    shard_bytes: int = SHARD_BYTES,
) -> Written:
    """Write a model with its tokeniser; the folder appears complete or not at all. `where` names the source.

    Raises: ModelError if the tensors do not fit the configuration, or the tokeniser does not fit the model; RunError
    if the disk is too small.
    """
    check_tensors(model, where)
    config = _with_special_ids(dict(model.config), tokenizer)
    check_tokenizer(tokenizer, model.vocab_size, where, config)
    dtype = _dtype_name(model.tensors)
    with atomic_folder(target, sum(tensor.num_bytes for tensor in model.tensors)) as temporary:
        files = _write_shards(model.tensors, temporary, shard_bytes)
        (temporary / CONFIG).write_bytes(_indented({**config, "dtype": dtype}))
        if model.generation is not None:
            (temporary / GENERATION).write_bytes(_indented(model.generation))
        tokenizer.save_pretrained(str(temporary))
        _check_complete(temporary, where)
    return Written(sum(tensor.num_elements for tensor in model.tensors), files, dtype)


def _check_complete(folder: Path, where: str) -> None:
    """Raise ModelError if transformers misses weights in a folder; on the meta device, so that none of them is read."""
    from transformers import AutoModelForCausalLM

    with silence_transformers(), loading_errors_as_model_errors(where, False):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True, device_map={"": "meta"}
        )
    if missing := sorted(loaded[1]["missing_keys"]):
        found = f"lacks {len(missing)} weights, such as {missing[0]}"
        raise ModelError(where, found, "a complete model", "download the missing files again")


def _with_special_ids(config: dict[str, Any], tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the configuration with the tokeniser's special tokens where it names none."""
    ids = {name: getattr(tokenizer, name) for name in SPECIAL_IDS if config.get(name) is None}
    return {**config, **ids}


def _dtype_name(tensors: Iterable[StoredTensor]) -> str:
    """Return the dtype that holds all tensors.

    >>> _dtype_name([StoredTensor("a", (1,), torch.float16, lambda: torch.zeros(1))])
    'float16'
    """
    common = torch.float16
    found = {tensor.dtype for tensor in tensors}
    if found != {common}:
        common = next(iter(found)) if len(found) == 1 else torch.float32
    return str(common).removeprefix("torch.")


def _write_shards(tensors: Sequence[StoredTensor], folder: Path, shard_bytes: int) -> int:
    """Write the tensors in their order, in files of at most `shard_bytes` (or one tensor), and return their number."""
    parts: list[tuple[Path, list[str]]] = []
    for number, shard in enumerate(_shards(tensors, shard_bytes), start=1):
        path, read = folder / f"part-{number}", {}
        for tensor in shard:
            # safetensors holds each tensor in full, so views of one storage become copies.
            read[tensor.name] = tensor.read().clone(memory_format=torch.contiguous_format)
            if not _is_finite(read[tensor.name]):
                raise ModelError(
                    tensor.name, "holds numbers that are not finite", "finite weights", "take another copy"
                )
        save_file(read, path, metadata={"format": "pt"})
        parts.append((path, list(read)))
        del read
    if len(parts) == 1:
        parts[0][0].rename(folder / WEIGHTS)
        return 1
    weight_map: dict[str, str] = {}
    for number, (path, names) in enumerate(parts, start=1):
        name = f"model-{number:05d}-of-{len(parts):05d}.safetensors"
        path.rename(folder / name)
        weight_map |= dict.fromkeys(names, name)
    total = sum(tensor.num_bytes for tensor in tensors)
    (folder / INDEX).write_bytes(_indented({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return len(parts)


def _is_finite(tensor: torch.Tensor) -> bool:
    """Return whether all numbers of a tensor are finite.

    >>> _is_finite(torch.tensor([1.0, -2.0])), _is_finite(torch.tensor([1.0, torch.nan])), _is_finite(torch.zeros(0))
    (True, False, True)
    """
    # Least and largest tell it, as both are NaN if one number is; torch.isfinite makes copies of the whole tensor.
    return not tensor.numel() or bool(torch.stack(torch.aminmax(tensor)).isfinite().all())


def _shards(tensors: Iterable[StoredTensor], shard_bytes: int) -> Iterator[list[StoredTensor]]:
    """Yield the tensors in runs of at most `shard_bytes`, or of one tensor if that is larger."""
    shard: list[StoredTensor] = []
    size = 0
    for tensor in tensors:
        if shard and size + tensor.num_bytes > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.num_bytes
    if shard:
        yield shard


def _indented(value: Any) -> bytes:
    import orjson

    return to_json(value, orjson.OPT_INDENT_2) + b"\n"
