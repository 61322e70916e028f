"""Write docs/reference.md from the command line and the settings; with --check, say whether it is current."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parent.parent / "docs" / "reference.md"

HEAD = """# Reference

Every command, every setting and every name that a setting takes. `python scripts/reference.py` generates this page;
`lotune COMMAND --help` prints the same texts. *The contest* is explained in
[Scoring](scoring.md#the-contest).
"""

EXITS = """## Exit status

| status | meaning |
| --- | --- |
| 0 | done |
| 1 | a check of the finished work failed: do not trust the result |
| 2 | bad input: up to three lines on stderr name the place, the fault and the fix |
| 130 | interrupted; if the command can resume, the message says so |
"""

SETTINGS = """## Settings

In a recipe, groups are YAML mappings. On the command line, write a setting as `key=value` with a dotted key. Values are
read as YAML; a value of type `str` is taken as it stands, apart from quotes around it. Relative paths start at the
current directory.
"""


def page() -> str:
    """Return the whole page as Markdown."""
    parts = [HEAD, "## Commands\n", *_commands(), EXITS, SETTINGS, *_settings(), "## Names\n", *_names()]
    return "\n".join(parts)


def _commands() -> Iterator[str]:
    """Yield a section per command: its purpose, its call and its options."""
    from typer.main import get_command

    from lotune.cli.app import app

    for name, command in _leaves(get_command(app)):
        arguments = [p.metavar or p.name for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and p.name != "help"]
        lines = [f"### {name}\n", f"    lotune {' '.join([name, *arguments])} [options]\n", f"{command.help}\n"]
        rows = [[f"`{max(p.opts, key=len)}`", _default(p), p.help or ""] for p in options]
        yield "\n".join([*lines, *_table(["option", "default", "meaning"], rows)])


def _leaves(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each command with its name; one of a group of commands has the name of the group before its own."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _leaves(command, f"{before}{name} ")
        else:
            yield before + name, command


def _default(option: Any) -> str:
    if option.required:
        return "required"
    return "" if option.is_flag or option.default is None else f"`{option.default}`"


def _settings() -> Iterator[str]:
    """Yield a table of the single settings, then a table per group."""
    from lotune.recipe import Recipe
    from lotune.settings_help import describe

    for group, lines in groupby(describe(Recipe), key=lambda line: line.key.rpartition(".")[0].partition(".")[0]):
        rows = [[f"`{line.key}`", f"`{line.type}`", f"`{line.default}`", line.sentence] for line in lines]
        title = f"### {group}\n" if group else "### The run\n"
        yield "\n".join([title, *_table(["setting", "type", "default", "meaning"], rows)])


def _names() -> Iterator[str]:
    """Yield a table of the settings that take a name from a table in the code."""
    from lotune.data.templates import TEMPLATES
    from lotune.tasks.registry import TASKS

    tables = {"task.name": TASKS, "task.template": TEMPLATES}
    rows = [[f"`{key}`", ", ".join(f"`{name}`" for name in table)] for key, table in tables.items()]
    yield "\n".join(_table(["setting", "names"], rows))


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *cells)] + [""]


def main(arguments: list[str]) -> int:
    """Write the page, or with --check return 1 if it is not current."""
    text = page()
    if arguments == ["--check"]:
        current = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        print("docs/reference.md is current" if current else "docs/reference.md is old: python scripts/reference.py")
        return 0 if current else 1
    PAGE.write_text(text, encoding="utf-8")
    print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
