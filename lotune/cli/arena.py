"""The commands `lotune arena ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lotune.cli.execution import expand_user, recipe_from_options, run_verb
from lotune.cli.options import Debug, Json
from lotune.errors import SettingsError
from lotune.serve.limits import BATTLES_PER_MINUTE

arena = typer.Typer(help="Blind battles between models, and their ratings.", rich_markup_mode=None)
VOTES = Path("votes.sqlite")
Votes = Annotated[Path, typer.Option(help="File of the votes.")]


@arena.callback(invoke_without_command=True)
def serve_arena(
    context: typer.Context,
    opponents: Annotated[
        Path | None, typer.Option(help="YAML file of the opponents: name with model, adapter or url.")
    ] = None,
    votes: Annotated[Path, typer.Option(help="File of the votes; it is made if it is missing.")] = VOTES,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 is every address of this machine.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    keys: Annotated[Path | None, typer.Option(help="File of API keys; the key named admin adds opponents.")] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name under which this server may be asked, such as that of a proxy.")
    ] = None,
    examples: Annotated[
        Path | None,
        typer.Option(help="Example questions of the page, a csv file. Default: examples.csv, if it is there."),
    ] = None,
    battles: Annotated[
        int, typer.Option(min=1, help="Battles a minute that one person, or address, may start.")
    ] = BATTLES_PER_MINUTE,
    max_new_tokens: Annotated[int | None, typer.Option(min=1, help="Longest answer in tokens.")] = None,
    debug: Debug = False,
) -> None:
    """Blind battles between models, and their ratings."""
    if context.invoked_subcommand is not None:
        return

    def work() -> None:
        from lotune.serve.limits import Limits
        from lotune.stages.arena import arena as run
        from lotune.stages.serve import ServeOptions
        from lotune.tasks.registry import CONVERSATION_TASK

        if opponents is None:
            raise SettingsError("arena", "--opponents is missing", "a file such as opponents.yaml")
        recipe = recipe_from_options("arena", CONVERSATION_TASK, [])
        options = ServeOptions(
            host, port, expand_user(keys), allow_host or (), examples=expand_user(examples), battles=battles
        )
        limits = Limits(max_new_tokens=max_new_tokens)
        run(recipe, expand_user(opponents) or opponents, expand_user(votes) or votes, limits, options)

    run_verb(work, json=False, debug=debug)


@arena.command()
def leaderboard(
    votes: Votes = VOTES,
    out: Annotated[Path | None, typer.Option(help="File to write, too: .json, .csv or .svg.")] = None,
    language: Annotated[str | None, typer.Option(help="Only prompts in zh, en or other.")] = None,
    category: Annotated[str | None, typer.Option(help="Only prompts of math, code, long or other.")] = None,
    judge: Annotated[str, typer.Option(help="Whose verdicts: people, or the name of a judge.")] = "people",
    style: Annotated[bool, typer.Option("--style", help="Take length and format of the answers out.")] = False,
    fewest: Annotated[int, typer.Option(min=1, help="Votes that a model needs for a rating.")] = 20,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Print the ratings of a file of votes."""

    def work() -> object:
        from lotune.arena.categories import CATEGORIES, LANGUAGES
        from lotune.arena.leaderboard import Filters
        from lotune.stages.arena import vote_leaderboard

        for option, value, choices in (("--language", language, LANGUAGES), ("--category", category, CATEGORIES)):
            if value is not None and value not in choices:
                raise SettingsError(option, value, " or ".join(choices))
        return vote_leaderboard(votes, Filters(language, category, judge, style, fewest), expand_user(out))

    run_verb(work, json=json, debug=debug)


@arena.command("export")
def export_votes(
    votes: Votes = VOTES,
    out: Annotated[Path | None, typer.Option(help="File to write. Default: stdout.")] = None,
    debug: Debug = False,
) -> None:
    """Write the votes as lines of JSON."""

    def work() -> None:
        from lotune.console import print_status
        from lotune.stages.arena import export_votes as export

        print_status(f"{export(votes, expand_user(out))} votes")

    run_verb(work, json=False, debug=debug)


@arena.command("import")
def import_votes(
    file: Annotated[Path, typer.Argument(help="File of `lotune arena export`, or of FastChat's votes.")],
    votes: Annotated[Path, typer.Option(help="File of the votes; it is made if it is missing.")] = VOTES,
    debug: Debug = False,
) -> None:
    """Add the votes of a file, each once."""

    def work() -> None:
        from lotune.console import print_status
        from lotune.stages.arena import import_file

        found = import_file(votes, expand_user(file) or file)
        print_status(f"{found.added} votes added, {found.known} known already, {found.other} lines of something else")

    run_verb(work, json=False, debug=debug)


@arena.command("redact")
def redact(
    votes: Votes = VOTES,
    battle: Annotated[list[str] | None, typer.Option(help="Only this battle.")] = None,
    texts: Annotated[
        bool, typer.Option("--texts", help="Remove all prompts and answers, and rename visitors.")
    ] = False,
    match: Annotated[
        str | None,
        typer.Option(help="Regular expression of what to remove. Default: mail addresses, long numbers, keys."),
    ] = None,
    debug: Debug = False,
) -> None:
    """Remove private data from votes; ratings stay as they are."""

    def work() -> None:
        from lotune.console import print_status
        from lotune.stages.arena import redact_votes

        print_status(f"{redact_votes(votes, battle or [], texts, match)} votes changed")

    run_verb(work, json=False, debug=debug)


@arena.command("judge")
def judge(
    prompts: Annotated[Path, typer.Argument(help="Questions: lines of text, or of JSON with prompt and answer.")],
    server: Annotated[str, typer.Option(help="OpenAI-compatible server of the models.")],
    model: Annotated[list[str], typer.Option(help="Model that battles; name two or more.")],
    judge: Annotated[str, typer.Option(help="Model that judges, with the answers in both orders.")] = "",
    judge_server: Annotated[str, typer.Option(help="Server of the judge. Default: that of the models.")] = "",
    scorer: Annotated[str, typer.Option(help="Scorer that judges instead, such as number or exact.")] = "",
    limit: Annotated[int | None, typer.Option(min=1, help="Number of questions.")] = None,
    votes: Annotated[Path, typer.Option(help="File of the votes; it is made if it is missing.")] = VOTES,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Let a model or a scorer decide battles, and compare it with people."""

    def work() -> object:
        from lotune.stages.arena_judge import JudgeOptions, judge_battles

        options = JudgeOptions(server, model, judge, judge_server, scorer, limit)
        return judge_battles(votes, expand_user(prompts) or prompts, options)

    run_verb(work, json=json, debug=debug, resumes=True)
