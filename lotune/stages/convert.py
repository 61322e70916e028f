"""`lotune convert`: a model in a foreign layout, written in the layout that lotune reads."""

from __future__ import annotations

from pathlib import Path

from lotune.model.convert.layouts import Conversion
from lotune.model.convert.layouts import convert as convert_layout
from lotune.recipe import RunOptions
from lotune.stages.output_files import require_single_process
from lotune.text_display import print_visible


def convert(source: Path, target: Path, layout: str | None, tokenizer: Path | None, options: RunOptions) -> Conversion:
    """Convert a source to a new folder, and print what was found and what was written.

    Raises: SettingsError and ModelError as `lotune.model.convert.layouts.convert`.
    """
    require_single_process("convert")
    conversion = convert_layout(source, target, layout, tokenizer)
    if not options.json:
        _show(conversion)
    return conversion


def _show(conversion: Conversion) -> None:
    print_visible(f"{conversion.source}: layout {conversion.layout}")
    for line in conversion.found:
        print_visible(f"  {line}")
    print_visible(f"written: {conversion.target}")
    for line in conversion.written:
        print_visible(f"  {line}")
