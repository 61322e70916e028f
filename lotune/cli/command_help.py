"""Typer commands whose help lists settings."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class RecipeCommand(TyperCommand):
    """A command that takes a recipe; its help ends with all settings."""

    settings_title = "Settings (in the recipe, or as key=value)"
    settings_shown: tuple[str, ...] = ("",)
    """Prefixes of the settings to list."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the list of settings."""
        # Imported here, as only the help needs the settings models and every command would wait for them.
        from lotune.recipe import Recipe
        from lotune.settings_help import describe

        lines = [line for line in describe(Recipe) if line.key.startswith(self.settings_shown)]
        with formatter.section(self.settings_title):
            formatter.write_dl([(line.key, f"{line.type}, default {line.default}. {line.sentence}") for line in lines])


class ModelCommand(RecipeCommand):
    """A command that takes a model; its help ends with the settings that affect its answers."""

    settings_title = "Settings (as key=value)"
    settings_shown = (
        *("device", "threads", "base.dtype", "task.", "data.max_row_bytes", "adapter.force_base"),
        *(
            "evaluate.max_batch_tokens",
            "evaluate.dtype",
            "evaluate.quantize",
            "evaluate.on_too_long",
            "evaluate.engine",
        ),
    )
