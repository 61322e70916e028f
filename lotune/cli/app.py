"""The command line: each command parses its options and calls the stage of the same name.

Commands that train take a recipe; commands that work on one model or file take options. With --json, stdout carries
the result and nothing else; messages go to stderr. Exit status: 0 done, 1 a check failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from lotune import __doc__ as PURPOSE
from lotune import __version__
from lotune.cli.arena import arena
from lotune.cli.audit import audit
from lotune.cli.bundle import bundle
from lotune.cli.chat import chat
from lotune.cli.command_help import ModelCommand, RecipeCommand
from lotune.cli.compare import compare
from lotune.cli.convert import convert
from lotune.cli.corpus import corpus
from lotune.cli.evaluate import evaluate
from lotune.cli.export import export
from lotune.cli.generate import generate
from lotune.cli.grade import grade
from lotune.cli.init import init
from lotune.cli.inspect import inspect
from lotune.cli.leaderboard import leaderboard
from lotune.cli.merge import merge
from lotune.cli.prepare import prepare
from lotune.cli.pretrain import pretrain
from lotune.cli.report import report
from lotune.cli.run import run
from lotune.cli.sample import sample
from lotune.cli.serve import serve
from lotune.cli.studio import studio
from lotune.cli.study import study
from lotune.cli.synthesize import synthesize
from lotune.cli.tokenizer import tokenizer
from lotune.cli.tune import tune
from lotune.cli.watch import watch
from lotune.text_display import show_error
from lotune.threads import share_cores

app = typer.Typer(
    name="lotune",
    help=PURPOSE,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # they can show local variables, such as secrets
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


def main() -> None:
    """Run the command line of this process."""
    import gc
    import logging
    import warnings

    from lotune.model.optional_libraries import hide_optional_libraries

    share_cores()  # before anything imports torch, which reads the setting once
    gc.set_threshold(10_000, 10, 10)  # imports create objects that stay; scanning them takes half a second
    hide_optional_libraries()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # meant for developers of peft
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes"):  # if installed, they log what they lack
        logging.getLogger(name).setLevel(logging.ERROR)
    # An error's text can quote a data file, whose hidden characters must not reach the terminal.
    sys.excepthook = show_error
    app(prog_name="lotune")


def _show_version(requested: bool) -> None:
    if requested:
        print(f"lotune {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _lotune(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


_lotune.__doc__ = PURPOSE

app.command(cls=RecipeCommand)(run)
app.command(cls=RecipeCommand)(prepare)
app.command(cls=RecipeCommand)(pretrain)
app.command(cls=RecipeCommand)(tune)
app.command(cls=RecipeCommand)(evaluate)
app.add_typer(study, name="study")
app.command()(watch)
app.command()(report)
app.command(cls=ModelCommand)(generate)
app.command(cls=ModelCommand)(chat)
app.command()(serve)
app.command()(studio)
app.add_typer(arena, name="arena")
app.command()(convert)
app.command()(merge)
app.command()(compare)
app.add_typer(export, name="export")
app.command()(audit)
app.command()(bundle)
app.command()(leaderboard)
app.add_typer(grade, name="grade")
app.command()(sample)
app.command()(synthesize)
app.command()(corpus)
app.command()(inspect)
app.add_typer(tokenizer, name="tokenizer")
app.command()(init)
