"""`lotune export gguf`: a model as one file for llama.cpp, Ollama and their kin."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lotune.console import print_status
from lotune.data.chat_template import ChatTemplate
from lotune.disk_space import format_bytes
from lotune.errors import ModelError, SettingsError
from lotune.model.convert.gguf import GgufOptions, jinja_of, write_gguf
from lotune.model.loading import base_folder, load_model
from lotune.model.settings import ADAPTER_CONFIG, BaseSettings
from lotune.recipe import Recipe
from lotune.stages.output_files import check_new
from lotune.stages.served_models import conversation_form


def export_gguf(recipe: Recipe, model: str, name: str, out: Path | None, dtype: str, overwrite: bool) -> dict[str, Any]:
    """Write a complete model to a GGUF file, by default NAME-DTYPE.gguf, and return what was written.

    The chat template of the file is the one in which the model was tuned.

    Raises: SettingsError if the file exists, without `overwrite`; ModelError for an adapter, or a model that GGUF
    cannot hold exactly.
    """
    settings = BaseSettings(model=model, dtype="float32")
    folder = base_folder(settings)
    if folder is not None and (folder / ADAPTER_CONFIG).is_file():
        raise ModelError(model, "is an adapter", "a complete model", "merge it first: lotune merge")
    file = out or Path(f"{name}-{dtype}.gguf")
    if file.suffix != ".gguf":
        raise SettingsError("--out", f"{file.name} has another suffix", "a .gguf file")
    check_new(file, overwrite)
    loaded = load_model(settings, "cpu")
    form = conversation_form(recipe, model)
    template = form.source if isinstance(form, ChatTemplate) else jinja_of(form)
    write_gguf(loaded.model, loaded.tokenizer, file, GgufOptions(dtype, name, template))
    size = file.stat().st_size
    print_status(f"{file}: {format_bytes(size)}; llama-server -m {file}")
    return {"model": model, "out": str(file), "dtype": dtype, "bytes": size}
