"""The commands `lotune tokenizer train` and `lotune tokenizer compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lotune.cli.execution import run_options, run_verb
from lotune.cli.options import Debug, Json

tokenizer = typer.Typer(help="Train or compare tokenisers.", rich_markup_mode=None, no_args_is_help=True)
CorpusPath = Annotated[Path, typer.Argument(metavar="CORPUS", help="File or folder of articles.")]
CleaningOption = Annotated[
    Literal["none", "wiki"], typer.Option("--cleaning", help="How to clean the articles: none or wiki.")
]


@tokenizer.command()
def train(
    corpus: CorpusPath,
    out: Annotated[Path, typer.Option(help="Folder of the tokeniser.")],
    vocab_size: Annotated[int, typer.Option(min=1, help="Tokens in the vocabulary.")] = 8192,
    cleaning: CleaningOption = "none",
    force: Annotated[bool, typer.Option("--force", help="Overwrite an existing folder.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a byte-level BPE tokeniser on articles."""

    def work() -> Any:
        from lotune.stages.tokenizer import train

        return train(corpus, vocab_size, out, cleaning, force, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)


@tokenizer.command()
def compare(
    corpus: CorpusPath,
    tokenizers: Annotated[
        list[str], typer.Argument(metavar="TOKENIZER...", help="Folders or files of tokenisers, or names of models.")
    ],
    cleaning: CleaningOption = "none",
    step_tokens: Annotated[int, typer.Option(min=1, help="Tokens in one step of a pre-training.")] = 4096,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Show tokens per character by script, and the steps of an epoch."""

    def work() -> Any:
        from lotune.stages.tokenizer import compare

        return compare(corpus, tokenizers, cleaning, step_tokens, run_options(False, json, debug))

    run_verb(work, json=json, debug=debug)
