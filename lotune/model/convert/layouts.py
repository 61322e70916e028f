"""The layouts that `lotune convert` reads: a row makes a further one available."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from lotune.disk_space import existing_path
from lotune.errors import ModelError, SettingsError
from lotune.files import require_new_folder, to_json, write_atomically
from lotune.model.convert.foreign import ForeignModel
from lotune.model.convert.huggingface import read_huggingface, recognise_huggingface
from lotune.model.convert.internlm import read_internlm, recognise_internlm
from lotune.model.convert.llama2c import read_llama2c, recognise_llama2c
from lotune.model.convert.meta import read_meta, recognise_meta
from lotune.model.convert.mindformers import is_mindformers, load_bounded_yaml
from lotune.model.convert.mindformers_recipe import recipe_of
from lotune.model.convert.nanogpt import read_nanogpt, recognise_nanogpt
from lotune.model.convert.tokenizer_files import read_tokenizer
from lotune.model.convert.writing import write_model
from lotune.model.loading import one_line


@dataclass(frozen=True)
class Conversion:
    """What a conversion found and what it wrote, each as lines for people."""

    layout: str
    source: str
    target: str
    found: Sequence[str]
    written: Sequence[str]


@dataclass(frozen=True)
class Layout:
    """A foreign layout.

    `recognise` returns what a source is, in words, or nothing. `convert` takes source, target and the file of a
    tokeniser or None, and writes the target whole or not at all.
    """

    name: str
    description: str
    recognise: Callable[[Path], str]
    convert: Callable[[Path, Path, Path | None], Conversion]


def _convert_model(
    name: str, read: Callable[[Path], ForeignModel], source: Path, target: Path, tokenizer_path: Path | None
) -> Conversion:
    """Write the model of a layout in Hugging Face's.

    Raises: ModelError if it is damaged, does not fit its configuration, or has no tokeniser.
    """
    try:
        model = read(source)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        found = f"its settings are those of no model: {one_line(error)}"
        raise ModelError(str(source), found, "sizes that fit together", "take another copy of the model") from error
    path = tokenizer_path or model.tokenizer
    if path is None:
        found, remedy = "has no tokeniser beside it", "name its file with --tokenizer"
        raise ModelError(str(source), found, "a tokeniser", remedy)
    tokenizer, tokenizer_layout = read_tokenizer(path)
    written = write_model(model, tokenizer, target, str(source))
    notes = [*model.notes, f"tokeniser: {tokenizer_layout}, {len(tokenizer):,} tokens, from {path}"]
    architecture = model.config["architectures"][0]
    files = "1 file" if written.files == 1 else f"{written.files} files"
    weights = f"{architecture} of {written.parameters:,} parameters in {written.dtype}, {files} of safetensors"
    return Conversion(name, str(source), str(target), notes, [weights, "config.json and tokenizer.json"])


def _model_layout(
    name: str, description: str, recognise: Callable[[Path], str], read: Callable[[Path], ForeignModel]
) -> Layout:
    return Layout(name, description, recognise, partial(_convert_model, name, read))


def _recognise_mindformers(source: Path) -> str:
    named = source.is_file() and source.suffix in (".yaml", ".yml")
    return "a configuration of MindFormers" if named and is_mindformers(load_bounded_yaml(source)) else ""


def _convert_mindformers(source: Path, target: Path, tokenizer: Path | None) -> Conversion:
    """Write the recipe of a fine-tuning configuration, with what it cannot hold as comments.

    Raises: SettingsError if the source trains no LoRA, or if a tokeniser is named.
    """
    if tokenizer is not None:
        raise SettingsError("--tokenizer", "a recipe has no tokeniser", remedy="leave it out")
    recipe, left = recipe_of(source)
    # As JSON, a value stays on its line, whatever it is.
    lines = [f"{one.key}: {to_json(one.value).decode()} ({one.why})" for one in left]
    comments = [f"# Made from {_in_one_line(source.name)}, a configuration of MindFormers."]
    comments += ["# Not carried over:", *(f"#   {_in_one_line(line)}" for line in lines)] if lines else []
    body = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    write_atomically(target, "\n".join([*comments, body]))
    found = [f"not carried over: {line}" for line in lines]
    return Conversion("mindformers", str(source), str(target), found, ["a recipe"])


def _in_one_line(text: str) -> str:
    return " ".join(text.split())


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        _model_layout("internlm", "InternLM 1, 2 and 2.5", recognise_internlm, read_internlm),
        _model_layout("meta", "Llama 2 and 3 with params.json and consolidated.*.pth", recognise_meta, read_meta),
        _model_layout("llama2c", "llama2.c's .bin, version 0 or 1", recognise_llama2c, read_llama2c),
        _model_layout("nanogpt", "nanoGPT's ckpt.pt", recognise_nanogpt, read_nanogpt),
        Layout("mindformers", "MindFormers' fine-tuning YAML", _recognise_mindformers, _convert_mindformers),
        _model_layout("huggingface", "pytorch_model.bin or another tokeniser", recognise_huggingface, read_huggingface),
    )
}
"""The layouts by name, in the order in which they are tried."""


def convert(source: Path, target: Path, layout: str | None = None, tokenizer: Path | None = None) -> Conversion:
    """Convert a source to what lotune reads; `layout` names its layout, which is otherwise recognised.

    Raises: SettingsError for an unknown layout or a target that is not empty; ModelError if the source is of no known
    layout, damaged or incomplete.
    """
    chosen = _named(layout) if layout is not None else _recognised(source)
    if not source.exists():
        raise ModelError(str(source), "does not exist", "a file or folder to convert", "check the path")
    check_target(source, target)
    return chosen.convert(source, target, tokenizer)


def check_target(source: Path, target: Path) -> None:
    """Raise SettingsError if a target exists and is not an empty folder, or lies inside the source."""
    require_new_folder(target)
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise SettingsError(str(target), f"is inside {source}, which is the source", "a separate folder")
    if not os.access(existing_path(target.absolute().parent), os.W_OK):
        raise SettingsError(str(target), "cannot be written", "a folder with write permission", "name another one")


def _named(name: str) -> Layout:
    if name not in LAYOUTS:
        raise SettingsError("--layout", f"{name!r} is unknown", f"one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


def _recognised(source: Path) -> Layout:
    if not source.exists():
        raise ModelError(str(source), "does not exist", "a file or folder to convert", "check the path")
    for layout in LAYOUTS.values():
        if layout.recognise(source):
            return layout
    known = "; ".join(f"{layout.name}: {layout.description}" for layout in LAYOUTS.values())
    raise ModelError(str(source), "is of no layout that lotune knows", known, "name the layout with --layout")
