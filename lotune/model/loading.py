"""Loading of base models, from safetensors only: no code of a model's folder runs, and no pickle is opened."""

from __future__ import annotations

import copy
import importlib.resources
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.data.tokenizer_training import check_tokenizer
from lotune.errors import ModelError, SettingsError
from lotune.model.convert.tokenizer_files import find_foreign_tokenizer, read_tokenizer
from lotune.model.hub_errors import hub_fault
from lotune.model.optional_libraries import unhide_optional_libraries
from lotune.model.parts import virtual_ids
from lotune.model.settings import ADAPTER_CONFIG, BaseSettings, Dtype
from lotune.model.token_ids import check_token_ids
from lotune.model.weight_files import weight_files, weight_files_of_hub

if TYPE_CHECKING:
    import torch
    from torch import nn
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

NANO = "nano"
PRACTICE_MODEL = "nano is a practice model of 2 million parameters"
REAL_MODEL = "Qwen/Qwen2.5-0.5B"
"""A real model to name in its place, which is small enough for a CPU."""
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
DEFAULT_ATTENTION = {"attn_implementation": None}
"""With None, transformers uses torch's fused attention (sdpa) or, if an architecture has none, its own (eager)."""
CONTEXT_LENGTH_FIELDS = ("max_position_embeddings", "seq_length", "max_seq_len", "max_target_positions")
"""Names of the context length in config.json; the last three are those of BLOOM, MPT and Whisper."""
PRETRAINED_FOLDERS = ("model-best", "model")
"""Models in the folder of a pre-training's run: the best one on validation, if it is not the last, and the last."""
DEFAULT_CONTEXT_LENGTH = 8192
"""Maximum number of tokens of prompt and answer if the architecture sets no bound (states, ALiBi); it bounds memory."""


@dataclass(frozen=True)
class LoadedModel:
    """A loaded model with its tokeniser; `folder` is None for a model on the hub, `dtype` is that of the weights."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    folder: Path | None
    dtype: torch.dtype
    weights: tuple[Path, ...] = ()
    """The files that the weights were read from; empty for a model that was not read from files."""


def load_model(settings: BaseSettings, device: str, quantization: Any = None) -> LoadedModel:
    """Return the base model, frozen and in evaluation mode, on a device (auto | cpu | cuda | mps).

    `quantization` is transformers' configuration of how linear weights are held.

    Raises: ModelError if there are no safetensors weights, a file names other weights, weights are missing or have the
    wrong shape, the tokeniser has more tokens than the model, a special token is outside the vocabulary, or the model
    needs code of its own.
    """
    import torch
    from torch import nn

    device = resolve_device(device)
    folder = _folder(settings.model)
    if folder is not None:
        _check_folder(folder, settings.model)
    # Weights that were published in 8 or 4 bits need these libraries; of a model on the hub it is not known yet.
    if folder is None or b'"quantization_config"' in (folder / "config.json").read_bytes():
        unhide_optional_libraries()
    dtype = resolve_dtype(settings.dtype, device)
    source = str(folder) if folder is not None else settings.model
    with silence_transformers(), loading_errors_as_model_errors(settings.model, folder is None):
        weights = weight_files_of_hub(settings.model) if folder is None else weight_files(folder, settings.model)
        model = _load_model(source, settings.model, dtype, quantization, device)
        if folder is None:
            check_token_ids(weights[0].parent, settings.model)
        tokenizer = _load_tokenizer(source, settings.model)
    embedding: Any = model.get_input_embeddings()
    special = model.config.get_text_config().to_dict()
    check_tokenizer(tokenizer, int(embedding.weight.shape[0]), settings.model, special)
    model.config._name_or_path = model.name_or_path = settings.model  # what an adapter names as its base
    tokenizer.name_or_path = settings.model
    fuse_activations(model)
    nn.Module.to(model, torch.device(device)).eval().requires_grad_(False)
    return LoadedModel(settings.model, model, tokenizer, folder, dtype, weights)


def resolve_device(device: str) -> str:
    """Return the device that "auto" stands for: cuda, else mps, else cpu. Check any other name and return it.

    Raises: SettingsError if the device is unknown or not available.

    >>> resolve_device("cpu")
    'cpu'
    """
    if device == "cpu":
        return device
    import torch

    kind = device.partition(":")[0]
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        return next(name for name, is_available in available.items() if is_available)
    if kind not in available:
        raise SettingsError("device", f"{device!r} is unknown", "auto, cpu, cuda or mps")
    if not available[kind]:
        raise SettingsError("device", f"{device} is not available here", remedy="device=auto, or install its PyTorch")
    return device


def resolve_dtype(dtype: Dtype, device: str) -> torch.dtype:
    """Return the dtype of the weights; "auto" is bfloat16 on a GPU that is clearly faster in it, else float32.

    >>> resolve_dtype("bfloat16", "cpu")
    torch.bfloat16
    """
    import torch

    if dtype == "auto":
        from lotune.model.dtype_benchmark import bfloat16_is_faster

        return torch.bfloat16 if bfloat16_is_faster(device) else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name of a dtype as used in settings and files.

    >>> import torch
    >>> dtype_name(torch.bfloat16)
    'bfloat16'
    """
    return str(dtype).removeprefix("torch.")


def count_parameters(model: nn.Module) -> int:
    """Return the number of parameters of a model and its adapters; tied parameters count once, packed ones in full.

    >>> from torch import nn
    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(_elements(parameter) for parameter in model.parameters())


def _elements(parameter: Any) -> int:
    """Return the number of weights in a parameter."""
    # bitsandbytes packs two weights of 4 bits into a byte.
    packed = getattr(parameter, "quant_state", None)
    return int(parameter.numel()) if packed is None else prod(packed.shape)


def context_length(model: PreTrainedModel) -> int:
    """Return the maximum number of tokens of prompt and answer together, without an adapter's virtual tokens.

    It is DEFAULT_CONTEXT_LENGTH if the architecture sets no bound.
    """
    return _context_of(model.config) - len(virtual_ids(model))


def load_tokenizer(settings: BaseSettings) -> tuple[PreTrainedTokenizerBase, int]:
    """Return the tokeniser of a base model and its context in tokens; read no weights.

    Raises: ModelError as `load_model` does.
    """
    from transformers import AutoConfig

    folder = _folder(settings.model)
    if folder is not None:
        _check_folder(folder, settings.model)
    source = str(folder) if folder is not None else settings.model
    with silence_transformers(), loading_errors_as_model_errors(settings.model, folder is None):
        # The configuration first: the hub's errors about it are plain, and no further request is made.
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        tokenizer = _load_tokenizer(source, settings.model)
    check_tokenizer(tokenizer, config.get_text_config().vocab_size, settings.model, config.get_text_config().to_dict())
    return tokenizer, _context_of(config)


def meta_model(settings: BaseSettings) -> PreTrainedModel:
    """Return a base model without its weights, on the meta device, which suffices to name and count its parts.

    Raises: ModelError as `load_model` does.
    """
    folder = _folder(settings.model)
    return meta_model_from(str(folder or settings.model), settings.model, is_on_hub=folder is None)


def meta_model_from(source: str, name: str, *, is_on_hub: bool) -> PreTrainedModel:
    """Return the model of a folder, a config.json or a name on the hub without weights; `name` is for messages.

    Raises: ModelError as `load_model` does.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with silence_transformers(), loading_errors_as_model_errors(name, is_on_hub), torch.device("meta"):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return model


def base_folder(settings: BaseSettings) -> Path | None:
    """Return the folder of a base model, None for a model on the hub. Raises: ModelError if the folder is missing."""
    return _folder(settings.model)


def declared_context_length(config: Any) -> int | None:
    """Return the context length in a configuration of transformers, in tokens; None if it names none."""
    text = config.get_text_config(decoder=True)
    lengths = (getattr(text, name, None) for name in CONTEXT_LENGTH_FIELDS)
    return next((length for length in lengths if isinstance(length, int)), None)


def _context_of(config: Any) -> int:
    length = declared_context_length(config)
    return length if length is not None and length > 0 else DEFAULT_CONTEXT_LENGTH


def float32_copy(base: LoadedModel) -> LoadedModel:
    """Return a copy of the base with float32 weights. It is exact, as float32 holds every bfloat16 number."""
    import torch

    return replace(base, model=cast_parameters(base.model, torch.float32), dtype=torch.float32)


def cast_parameters(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Return a copy of the model with its parameters in `dtype`, as if read from a file of that dtype."""
    # Not `model.to(dtype)`: it would also round buffers, such as rotary frequencies, which no file holds.
    rounded = copy.deepcopy(model)
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(dtype)
    return rounded


@contextmanager
def silence_transformers() -> Iterator[None]:
    """Keep transformers' loading report and progress bar off the terminal; faults in the report are raised instead."""
    from transformers.utils import logging

    verbosity, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bar:
            logging.enable_progress_bar()


def _folder(name: str) -> Path | None:
    """Return the folder that a base model's name stands for; None for a name on the hub.

    Raises: ModelError if the name looks like a path but is no folder.
    """
    if name == NANO:
        folder = Path(str(importlib.resources.files("lotune.nano").joinpath("weights")))
        if not folder.is_dir():
            raise ModelError(
                NANO, "the embedded model's weights are missing", remedy="install lotune again, or see the model's card"
            )
        return folder
    folder = Path(name).expanduser()
    if folder.is_dir():
        return pretrained_model(folder)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or folder.exists():
        raise ModelError(name, "is not a folder", "a folder in Hugging Face's layout", "check the path")
    return None


def pretrained_model(folder: Path) -> Path:
    """Return the best model of a pre-training for the folder of its run; any other folder as it is."""
    if (folder / "config.json").exists() or not (folder / "recipe.yaml").is_file():
        return folder
    models = (folder / name for name in PRETRAINED_FOLDERS)
    return next((model for model in models if (model / "config.json").is_file()), folder)


def _check_folder(folder: Path, name: str) -> None:
    """Raise ModelError for a folder that holds no complete model in safetensors, with the reason."""
    if (folder / ADAPTER_CONFIG).exists():
        raise ModelError(
            name, "holds an adapter", "a complete model", "give its base, and the folder as adapter.init_from"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(name, "has no config.json", "a folder in Hugging Face's layout")
    if any(folder.glob("*.safetensors*")):
        weight_files(folder, name)
        check_token_ids(folder, name)
        return
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        found = f"holds weights only as pickle ({', '.join(pickles[:2])}), which can run code when opened"
        raise ModelError(name, found, "*.safetensors", f"convert it: lotune convert {name} NEW-FOLDER")
    raise ModelError(name, "holds no weights", "model.safetensors, or its parts with their index")


def _load_model(source: str, name: str, dtype: torch.dtype, quantization: Any, device: str) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM, PreTrainedModel

    # Quantised weights are packed on the device that computes with them, so transformers places them there itself.
    options = {} if quantization is None else {"quantization_config": quantization, "device_map": {"": device}}
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source,
        dtype=dtype,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        **DEFAULT_ATTENTION,
        **options,
    )
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        raise ModelError(name, f"{len(missing)} weights are missing, such as {missing[0]}", "a complete model")
    assert isinstance(model, PreTrainedModel)
    return model


def fuse_activations(model: nn.Module) -> None:
    """Replace GPT-2's GELU, which transformers computes in eight passes over the tensor, by torch's kernel."""
    from torch import nn
    from transformers.activations import FastGELUActivation, NewGELUActivation

    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, NewGELUActivation | FastGELUActivation):
                setattr(module, name, nn.GELU(approximate="tanh"))


def _load_tokenizer(source: str, name: str) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    foreign = find_foreign_tokenizer(Path(source)) if Path(source).is_dir() else None
    if foreign is not None:
        return read_tokenizer(foreign)[0]
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    if not isinstance(tokenizer, PreTrainedTokenizerBase):
        raise ModelError(name, "has no tokeniser", "tokenizer.json beside the weights")
    return tokenizer


@contextmanager
def loading_errors_as_model_errors(name: str, is_on_hub: bool) -> Iterator[None]:
    """Turn the errors that libraries raise for a model that cannot be loaded into a ModelError."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except (
        *(OSError, ValueError, RuntimeError, KeyError, TypeError, ImportError),
        *(SafetensorError, StrictDataclassError),
    ) as error:
        text = str(error)
        if "trust_remote_code" in text:
            found, remedy = "it needs custom code, which lotune never runs", "take a model that transformers knows"
        elif is_on_hub:
            found, remedy = hub_fault(name, error)
        else:
            found, remedy = f"cannot be loaded: {one_line(error)}", "check that the folder is complete"
        raise ModelError(name, found, "nano, a folder in Hugging Face's layout, or a hub name", remedy) from error


def one_line(error: BaseException) -> str:
    """Return the message of an error in one line of at most 300 characters, or the error's type if it is empty."""
    return " ".join(str(error).split())[:300] or type(error).__name__
