"""The command line as tests call it, and the smallest recipe that runs through it."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner, Result

from lotune.cli.app import app
from lotune.data.templates import TEMPLATE_FILE, Template, template_record
from lotune.files import write_json

RECIPE = """
seed: 3
device: cpu
base: {{model: {base}, dtype: float32}}
task: {{scratchpad: false, max_new_tokens: 8}}
data: {{generated_rows: 40, validation_rows: 4, test_rows: 6}}
adapter: {{rank: 2}}
tune: {{epochs: 1, micro_batch_rows: 8, learning_rate: 0.01}}
checkpoints: {{count: 2, merge_check_rows: 3}}
retention: {{rows: 4, replay: {{rows: 0}}, validation_rows: 3}}
"""
"""Five steps of eight rows."""


def invoke(*words: object) -> Result:
    """What the command leaves behind, whatever its exit status."""
    return CliRunner().invoke(app, [str(word) for word in words], prog_name="lotune")


def call(*words: object, status: int = 0) -> Result:
    """What the command leaves behind; it has to end with `status`."""
    result = invoke(*words)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == status, result.stderr
    return result


def save_template(folder: Path, template: Template) -> None:
    """Write a prompt template into a folder as a checkpoint of its own."""
    write_json(folder / TEMPLATE_FILE, template_record(template, {}))
