"""Checkpoints on disk: adapters in PEFT's format, complete models in Hugging Face's. A folder appears whole."""

from __future__ import annotations

import copy
import os
import shutil
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import orjson
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lotune.data.templates import TEMPLATE_FILE
from lotune.disk_space import disk_full_as_run_error
from lotune.errors import ModelError
from lotune.model.adapter_formats import PEFT_0_10, check_fits_peft_0_10, rewrite_in_peft_0_10
from lotune.model.adapters import add_adapter, has_adapter
from lotune.model.digest import weights_digest
from lotune.model.fully_tuned import FULL, FullTuningConfig
from lotune.model.loading import LoadedModel, cast_parameters, float32_copy, silence_transformers
from lotune.model.methods.method import SavedAdapter
from lotune.model.methods.registry import METHODS, method_name
from lotune.model.settings import ADAPTER_CONFIG, AdapterSettings
from lotune.settings import is_auto

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel

ADAPTER_WEIGHTS = "adapter_model.safetensors"
BASE_DIGEST = "lotune_base_weights"
"""Key of the base's digest in the metadata of an adapter's weights."""


def save_adapter(
    model: PeftModel,
    folder: Path,
    template_json: str | None = None,
    base: LoadedModel | None = None,
    config_format: str = "peft",
) -> None:
    """Write adapter_config.json, adapter_model.safetensors and, if given, the prompt template.

    With `base`, the metadata of the adapter's weights holds the digest of the base's weights. `config_format` is the
    setting `adapter.format`.

    Raises: ModelError if that format cannot hold the adapter.
    """
    config = copy.deepcopy(model.peft_config["default"])
    tensors = METHODS[method_name(config)].tensors(model)
    config.inference_mode = True
    if isinstance(targets := getattr(config, "target_modules", None), set):
        config.target_modules = sorted(targets)  # type: ignore[attr-defined]  # the same file for the same adapter
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_folder(folder, _bytes(contiguous.values())) as temporary:
        digest = {BASE_DIGEST: weights_digest(base.weights)} if base is not None and base.weights else {}
        save_file(contiguous, temporary / ADAPTER_WEIGHTS, metadata={"format": "pt", **digest})
        sort_metadata(temporary / ADAPTER_WEIGHTS)
        config.save_pretrained(str(temporary))
        if config_format == PEFT_0_10:
            check_fits_peft_0_10(config, "adapter.format")
            rewrite_in_peft_0_10(temporary / ADAPTER_CONFIG)
        _write_template(temporary, template_json)


def sort_metadata(file: Path) -> None:
    """Sort the metadata in a safetensors header, whose order varies, so that equal adapters are equal files."""
    with file.open("r+b") as stream:
        size = int.from_bytes(stream.read(8), "little")
        header = orjson.loads(stream.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        stream.seek(8)
        stream.write(orjson.dumps(header).ljust(size))


def load_adapter(base: LoadedModel, folder: Path, *, force_base: bool = False) -> PeftModel:
    """Return the base with a saved adapter, frozen and in evaluation mode; the adapter is put into `base.model` itself.

    Raises: ModelError if the folder holds no adapter in safetensors, or if the adapter has an unknown method, tensors
    that do not fit the base or, unless `force_base` is set, another base.
    """
    config = read_adapter_config(folder)
    check_base(folder, base.name, base.weights, force=force_base)
    return _load(base, folder, config, trainable=False).requires_grad_(False)


def load_beside(adapted: PeftModel, base: LoadedModel, folder: Path, name: str, *, force_base: bool = False) -> None:
    """Load one more saved adapter under a `name` into a model that `load_adapter` returned; it does not become active.

    Raises: ModelError as `load_adapter` does, or if requests cannot choose between adapters of its method.
    """
    config: Any = read_adapter_config(folder)
    check_base(folder, base.name, base.weights, force=force_base)
    if not METHODS[method_name(config)].selectable(config):
        found = f"is an adapter of the method {method_name(config)}, which cannot be chosen per request"
        raise ModelError(str(folder), found, "plain LoRA", "serve it as a model of its own")
    model: Any = adapted
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # raise a ModelError below
            loaded = model.load_adapter(str(folder), name, torch_device=str(base.model.device))
    except (ValueError, RuntimeError, KeyError) as error:
        raise ModelError(str(folder), f"does not fit {base.name}: {error}", "an adapter of this base") from error
    if mismatched := [*loaded.unexpected_keys, *(key for key in loaded.missing_keys if f".{name}." in key)]:
        found = f"{len(mismatched)} tensors do not fit {base.name}, such as {mismatched[0]}"
        raise ModelError(str(folder), found, "one tensor for each adapted module", "give the base it was made for")
    model.requires_grad_(False).eval()


def check_base(folder: Path, name: str, weights: Sequence[Path], *, force: bool = False) -> None:
    """Raise ModelError if a saved adapter was made for other weights than those of the base `name`, unless forced.

    An adapter without a digest of its base passes.
    """
    digest = base_digest(folder)
    if not force and digest is not None and weights and digest != weights_digest(weights):
        found = f"was made for a base of other weights than those of {name}"
        remedy = "name its own base (--base, base.model), or force this one with adapter.force_base=true"
        raise ModelError(str(folder), found, "the base that it was made for", remedy)


def base_digest(folder: Path) -> str | None:
    """Return the digest of the base's weights in a saved adapter; None if another program wrote the adapter."""
    with _opened(folder / ADAPTER_WEIGHTS) as file:
        digest: str | None = (file.metadata() or {}).get(BASE_DIGEST)
    return digest


def init_adapter(base: LoadedModel, settings: AdapterSettings, seed: int) -> PeftModel:
    """Return the base with the adapter to train: a fresh one, or a float32 copy of the saved one in `init_from`.

    The shape of a saved adapter stays; the settings of the training, such as dropout, replace its own.

    Raises: ModelError as `add_adapter`, `load_adapter` and `check_init_adapter` do.
    """
    if settings.init_from is None:
        return add_adapter(base.model, settings, seed, base.tokenizer)
    saved = _check_saved(settings, settings.init_from)
    check_base(settings.init_from, base.name, base.weights, force=settings.force_base)
    METHODS[settings.method].continue_saved(saved, settings, base.model)
    saved.config.base_model_name_or_path = base.name
    return _load(base, saved.folder, saved.config, trainable=True)


def check_init_adapter(settings: AdapterSettings) -> AdapterSettings:
    """Return the settings with the values of the saved adapter in `init_from`, if they name one; load no model.

    Raises: ModelError if training cannot start from it: there is no adapter, it has another method, or its values
    differ from those of the recipe.
    """
    if settings.init_from is None:
        return settings
    saved = _check_saved(settings, settings.init_from)
    return settings.model_copy(update=dict(METHODS[settings.method].saved_values(saved.config)))


def _check_saved(settings: AdapterSettings, folder: Path) -> SavedAdapter:
    config = read_adapter_config(folder)
    if method_name(config) != settings.method:
        found, name = f"is a {method_name(config)} adapter", method_name(config)
        raise ModelError(str(folder), found, f"adapter.method={settings.method}", f"adapter.method={name}")
    if settings.format == PEFT_0_10:
        check_fits_peft_0_10(config, f"adapter.init_from={folder}")
    saved = SavedAdapter(folder, config, _tensor_names(folder / ADAPTER_WEIGHTS))
    method = METHODS[settings.method]
    method.check_saved(saved)
    for name, value in method.saved_values(config).items():
        given = getattr(settings, name)
        if name in settings.model_fields_set and not is_auto(given) and given != value:
            found = f"has {name} {value:g}, the recipe adapter.{name}={given:g}"
            raise ModelError(str(folder), found, "the same", f"leave adapter.{name} out, it is taken from there")
    return saved


def _load(base: LoadedModel, folder: Path, config: PeftConfig, *, trainable: bool) -> PeftModel:
    if has_adapter(base.model):
        raise ModelError(base.name, "already has an adapter", "a base model", "load the base again")
    saved, method = _tensor_names(folder / ADAPTER_WEIGHTS), METHODS[method_name(config)]
    try:
        with warnings.catch_warnings():
            # Missing tensors raise a ModelError below.
            warnings.filterwarnings("ignore", message="Found missing adapter keys")
            model: Any = method.load(base.model, folder, config, trainable and method.unfreeze is None)
    except (ValueError, RuntimeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [""])[-1].strip()
        raise ModelError(
            str(folder), f"does not fit {base.name}: {reason}", remedy="give the base it was made for"
        ) from error
    expected = set(method.tensors(model))
    if saved != expected:
        mismatched = sorted(saved ^ expected)
        found = f"{len(mismatched)} tensors do not fit {base.name}, such as {mismatched[0]}"
        raise ModelError(str(folder), found, "one tensor for each adapted module", "give the base it was made for")
    method.attach(model)
    if trainable and method.unfreeze is not None:
        method.unfreeze(model)
    adapted: PeftModel = model.eval()
    return adapted


def merge(base: LoadedModel, adapter_folder: Path, *, force_base: bool = False) -> PreTrainedModel:
    """Return a new float32 model with the adapter merged into the weights; the base stays as it is.

    Raises: ModelError as `load_adapter` does, or if the method cannot be merged or a merged weight is not finite.
    """
    check_mergeable(adapter_folder)
    # In float32, so that only saving rounds.
    adapted: Any = load_adapter(float32_copy(base), adapter_folder, force_base=force_base)
    try:
        merged = adapted.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(str(adapter_folder), str(error), "finite weights", "take an earlier checkpoint") from None
    assert isinstance(merged, PreTrainedModel)
    merged.eval().requires_grad_(False)
    return merged


def check_mergeable(adapter_folder: Path) -> None:
    """Raise ModelError if a folder holds no adapter, or one of a method that cannot be merged."""
    method = METHODS[method_name(read_adapter_config(adapter_folder))]
    if not method.mergeable:
        raise ModelError(
            str(adapter_folder), f"{method.name} cannot be merged", remedy="use the adapter beside its base"
        )


def save_model(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    dtype: torch.dtype,
    template_json: str | None = None,
) -> None:
    """Write a complete Hugging Face folder: configuration, weights rounded to `dtype`, tokeniser; tied weights once.

    Raises: ModelError if the model still has an adapter beside its weights.
    """
    if has_adapter(model):
        raise ModelError(str(folder), "the model still has its adapter beside its weights", "a merged model")
    rounded = cast_parameters(model, dtype)
    if rounded.generation_config is not None:
        _fix_generation_config(rounded.generation_config)
    with silence_transformers(), atomic_folder(folder, _bytes(rounded.parameters())) as temporary:
        rounded.save_pretrained(str(temporary))
        tokenizer.save_pretrained(str(temporary))
        _write_template(temporary, template_json)


def _fix_generation_config(config: Any) -> None:
    """Make a generation configuration valid, as transformers refuses to save some published ones.

    These set a temperature without sampling.
    """
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = True


def _write_template(folder: Path, template_json: str | None) -> None:
    if template_json is not None:
        (folder / TEMPLATE_FILE).write_text(template_json, encoding="utf-8")


@contextmanager
def atomic_folder(folder: Path, needed: int) -> Iterator[Path]:
    """Yield a temporary folder that replaces `folder` if the block succeeds and is removed if it fails.

    Raises: RunError if the disk has no room for the `needed` bytes; `folder` is then as it was.
    """
    temporary, old = (folder.with_name(f".{folder.name}.{end}") for end in ("tmp", "old"))
    shutil.rmtree(temporary, ignore_errors=True)  # left by a crash
    temporary.mkdir(parents=True)
    try:
        with disk_full_as_run_error(folder, needed):
            yield temporary
            for path in temporary.iterdir():
                _flush(path)
        # A folder cannot replace one that is not empty, so the old one is moved away first.
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            os.replace(folder, old)
        os.replace(temporary, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _flush(path: Path) -> None:
    """Flush a file to the disk, so that no folder under its final name holds a file without content."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def read_adapter_config(folder: Path) -> PeftConfig:
    if not (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(str(folder), f"has no {ADAPTER_CONFIG}", "a folder in PEFT's format")
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise ModelError(str(folder), f"has no {ADAPTER_WEIGHTS}", "weights in safetensors; pickles are never opened")
    try:
        config = _read_config(folder)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(str(folder), f"{ADAPTER_CONFIG} cannot be read: {error}") from None
    if method_name(config) not in METHODS:
        raise ModelError(str(folder), f"is a {method_name(config)} adapter", f"one of {', '.join(METHODS)}")
    return config


def _read_config(folder: Path) -> PeftConfig:
    content = orjson.loads((folder / ADAPTER_CONFIG).read_bytes())
    if isinstance(content, dict) and content.get("peft_type") == FULL:
        own: Any = FullTuningConfig(**content)
        return cast("PeftConfig", own)
    from peft import PeftConfig

    config: PeftConfig = PeftConfig.from_pretrained(str(folder))
    return config


def _tensor_names(path: Path) -> set[str]:
    with _opened(path) as file:
        return set(file.keys())


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ModelError(str(path), f"is damaged: {error}", "safetensors") from None
