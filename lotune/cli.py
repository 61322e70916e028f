"""The command line: a verb, read and checked, is handed to the stage of its name.

A run takes a recipe, a thing takes options. Results for machines go to stdout under --json and nothing else does then;
messages go to stderr. Exit status: 0 done, 1 a check failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from lotune import __doc__ as PURPOSE
from lotune import __version__
from lotune.errors import SettingsError
from lotune.text_display import print_visible, show_error
from lotune.threads import share_cores
from lotune.unforeseen import as_lotune_error, check_words

if TYPE_CHECKING:
    from lotune.recipe import Options, Recipe

app = typer.Typer(
    name="lotune",
    help=PURPOSE,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


class RecipeCommand(TyperCommand):
    """A verb that takes a recipe: its help goes on with every setting of a recipe."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from lotune.recipe import Recipe
        from lotune.settings import describe

        with formatter.section("Settings (in the recipe, or as key=value)"):
            formatter.write_dl(
                [(line.key, f"{line.type}, default {line.default}. {line.sentence}") for line in describe(Recipe)]
            )


RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="What the run is: the recipe file.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings laid over the recipe's.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Stop after the checks and the estimates.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else, on stdout.")]
ForceTemplate = Annotated[
    bool, typer.Option("--force-template", help="Ask in the task's template, though the model was tuned in another.")
]
BaseModel = Annotated[
    str | None, typer.Option("--base", help="Base of an adapter; without it the one that the adapter names.")
]
Temperature = Annotated[float, typer.Option(help="0 takes the likeliest token, more draws others, too.")]
TopK = Annotated[int | None, typer.Option(help="Draw from so many of the likeliest tokens.")]
TopP = Annotated[float, typer.Option(help="Draw from the likeliest tokens that have this share together.")]
RepetitionPenalty = Annotated[float, typer.Option(help="Above 1, tokens that were said are less likely.")]
Seed = Annotated[int, typer.Option(help="The same seed draws the same answers.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def main() -> None:
    """Carry out the command line of this process."""
    import gc
    import logging
    import warnings

    from lotune.model.probed import hold_back

    share_cores()
    gc.set_threshold(10_000, 10, 10)  # imports make objects that stay: to look through them costs half a second
    hold_back()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")  # for developers of peft
    for name in ("torchao", "torch.utils._pytree", "bitsandbytes"):  # where they are installed they tell what they lack
        logging.getLogger(name).setLevel(logging.ERROR)
    sys.excepthook = show_error
    app(prog_name="lotune")


def _show_version(wanted: bool) -> None:
    if wanted:
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


@app.command(cls=RecipeCommand)
def run(
    recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False, json: Json = False, debug: Debug = False
) -> None:
    """Do what is left of a recipe, and print the scorecard."""
    _carry_out_recipe("run", recipe, overrides, dry_run, json, debug)


@app.command(cls=RecipeCommand)
def prepare(
    recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False, json: Json = False, debug: Debug = False
) -> None:
    """Read or generate rows, check, split and encode them."""
    _carry_out_recipe("prepare", recipe, overrides, dry_run, json, debug)


@app.command(cls=RecipeCommand)
def pretrain(
    recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False, json: Json = False, debug: Debug = False
) -> None:
    """Train a base model from scratch on generated text."""
    _carry_out_recipe("pretrain", recipe, overrides, dry_run, json, debug)


@app.command(cls=RecipeCommand)
def tune(
    recipe: RecipeFile, overrides: Overrides = None, dry_run: DryRun = False, json: Json = False, debug: Debug = False
) -> None:
    """Train the adapter, and validate its checkpoints."""
    _carry_out_recipe("tune", recipe, overrides, dry_run, json, debug)


@app.command(cls=RecipeCommand)
def evaluate(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RECIPE.yaml] [key=value]...", help="A recipe whose run is tested, and settings."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Test this model (a folder, of a model or an adapter, or nano) and no run.")
    ] = None,
    base: BaseModel = None,
    task: Annotated[
        str | None, typer.Option(help="Task of --model, such as choice; text: perplexity of articles.")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Test rows of --model; without it they are generated.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Test on so many rows at most (without --data: generate so many).")
    ] = None,
    shots: Annotated[int, typer.Option(min=0, help="Show so many answered examples before each question.")] = 0,
    shots_data: Annotated[Path | None, typer.Option(help="File that the examples are taken from.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the predictions of --model, one a line.")] = None,
    force_template: ForceTemplate = False,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Test base and tuned model, or one model alone (--model)."""
    first, *others = words or [""]
    if model is None:
        alone = {
            "--task": task, "--data": data, "--limit": limit, "--shots": shots or None, "--shots-data": shots_data,
            "--out": out, "--base": base,
        }  # fmt: skip
        _carry_out(lambda: _need_recipe(first, alone), json=False, debug=debug)
        _carry_out_recipe("evaluate", Path(first), others, dry_run, json, debug)
    else:
        options, overrides = _options(dry_run, json, debug), list(words or [])
        data, shots_data, out = _at_home(data), _at_home(shots_data), _at_home(out)

        def work() -> Any:
            recipe = _task_recipe("evaluate", task, overrides, base)
            if task == "text":
                if shots:
                    raise SettingsError("--shots", "--task text asks nothing", remedy="leave it out")
                from lotune.stages.texts import evaluate_texts

                return evaluate_texts(recipe, model, data, limit, out, options)
            from lotune.stages import things

            test = things.EvaluationRows(data, limit, shots, shots_data)
            return things.evaluate_model(recipe, model, test, out, force_template, options)

        _carry_out(work, json=json, debug=debug, goes_on=out is not None)


@app.command()
def report(
    target: Annotated[Path, typer.Argument(metavar="RUN_FOLDER|RECIPE.yaml", help="A finished run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings, where a recipe is given.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write report.html and report.md of a finished run anew."""

    def work() -> Any:
        from lotune.stages.report import report

        return report(target, overrides or [], _options(False, json, debug))

    _carry_out(work, json=json, debug=debug)


@app.command()
def generate(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings.")] = None,
    model: Annotated[str, typer.Option(help="The model that answers: a folder, a hub name, or nano.")] = "nano",
    base: BaseModel = None,
    task: Annotated[str | None, typer.Option(help="Task of the rows, such as arithmetic or choice.")] = None,
    data: Annotated[Path | None, typer.Option(help="Rows to answer; they need no keys.")] = None,
    out: Annotated[Path | None, typer.Option(help="File for the answers in the rows' order: .jsonl, or .txt.")] = None,
    prompt: Annotated[str | None, typer.Option(help="Answer this text, and no file.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Draw so many answers to --prompt.")] = 1,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = 0,
    force_template: ForceTemplate = False,
    dry_run: DryRun = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Answer each row of a file, in its order, or one prompt."""
    data, out = _at_home(data), _at_home(out)

    def work() -> Any:
        from lotune.generate.sampling import wished
        from lotune.stages import generate

        options = _options(dry_run, json, debug)
        sampling = wished(temperature, top_k, top_p, repetition_penalty, seed)
        if prompt is not None:
            if data is not None or out is not None:
                raise SettingsError("generate", "--prompt beside --data or --out", remedy="give one of the two")
            recipe = _task_recipe("generate", task or "instructions", overrides or [], base)
            return generate.generate_text(recipe, model, prompt, sampling, samples, force_template, options)
        if samples > 1:
            raise SettingsError("--samples", "a row has one answer", "1 with --data", "leave it out, or give --prompt")
        if data is None or out is None:
            raise SettingsError("generate", "nothing to answer", "--task, --data and --out, or --prompt")
        recipe = _task_recipe("generate", task, overrides or [], base)
        return generate.generate_answers(recipe, model, data, out, sampling, force_template, options)

    _carry_out(work, json=json, debug=debug, goes_on=out is not None)


@app.command()
def chat(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings.")] = None,
    model: Annotated[str, typer.Option(help="The model to talk to: a folder, a hub name, or nano.")] = "nano",
    base: BaseModel = None,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest answer in tokens.")] = 256,
    force_template: ForceTemplate = False,
    debug: Debug = False,
) -> None:
    """Talk to a model in the terminal."""

    def work() -> None:
        from lotune.generate.sampling import wished
        from lotune.stages.chat import chat

        sampling = wished(temperature, top_k, top_p, repetition_penalty, seed)
        recipe = _task_recipe("chat", "instructions", overrides or [], base)
        chat(recipe, model, sampling, max_new_tokens, force_template)

    _carry_out(work, json=False, debug=debug)


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="A predictions file, or the folder of a finished run.")],
    b: Annotated[Path, typer.Argument(metavar="B", help="Another one, on the same items.")],
    score: Annotated[
        str | None,
        typer.Option(help="Compare this figure, such as rouge_l or accuracy; without it the one they were judged for."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Say which of two models is better on the same items.

    Where these items cannot tell, it says how many could.
    """

    def work() -> Any:
        from lotune.stages.compare import compare

        return compare(a, b, score, _options(False, json, debug))

    _carry_out(work, json=json, debug=debug)


@app.command()
def sample(
    task: Annotated[str, typer.Option(help="Task whose rows are written: arithmetic or reading.")],
    out: Annotated[Path, typer.Option(help="File to write, in the task's own layout.")],
    rows: Annotated[int, typer.Option(min=1, help="How many rows.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed writes the same rows.")] = 0,
    shares: Annotated[str, typer.Option(help="Mix of the kinds: deduplicated or raw.")] = "deduplicated",
    language: Annotated[str, typer.Option(help="Language: zh, en or both.")] = "zh",
    form: Annotated[str, typer.Option(help="rows (the task's own layout) or conversation (prompt, answer).")] = "rows",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write rows of a task's own generator to a file."""

    def work() -> Any:
        from lotune.settings import read_settings
        from lotune.stages import things
        from lotune.tasks.settings import TaskSettings

        settings = read_settings(TaskSettings, None, [f"name={task}", f"shares={shares}", f"language={language}"])
        return things.sample(settings, rows, seed, out, form, force, _options(False, json, debug))

    _carry_out(work, json=json, debug=debug)


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE|FOLDER", help="Your training rows.")],
    out: Annotated[Path | None, typer.Option(help="Recipe to write; without it, it is named after the file.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a recipe that is there.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a first recipe for a file of rows.

    The task is recognised by the rows; three of them are shown as they are trained on.
    """

    def work() -> Any:
        from lotune.stages import things

        return things.init(file, out, force, _options(False, json, debug))

    _carry_out(work, json=json, debug=debug)


def _options(dry_run: bool, json: bool, debug: bool) -> Options:
    from lotune.recipe import Options

    return Options(dry_run=dry_run, json=json, debug=debug)


def _carry_out_recipe(
    verb: str, path: Path, overrides: list[str] | None, dry_run: bool, json: bool, debug: bool
) -> None:
    def work() -> Any:
        from lotune.recipe import read_recipe

        recipe = read_recipe(path, overrides or [])
        _use_threads(recipe)
        stage: Callable[[Recipe, Options], Any] = getattr(import_module(f"lotune.stages.{verb}"), verb)
        options = _options(dry_run, json, debug)
        from lotune.train.parallel import processes

        if processes() > 1:
            from lotune.stages.together import carry_out

            return carry_out(stage, recipe, options)
        return stage(recipe, options)

    _carry_out(work, json=json, debug=debug, goes_on=True)


def _need_recipe(first: str, alone: dict[str, Any]) -> None:
    """Raises: SettingsError where there is no recipe to evaluate, or an option that only --model takes."""
    given = [name for name, value in alone.items() if value is not None]
    if given:
        raise SettingsError("evaluate", f"{', '.join(given)} without --model", remedy="name a model with --model")
    if not first or "=" in first:
        raise SettingsError("evaluate", "no recipe and no --model", "RECIPE.yaml, or --model FOLDER --task NAME")


def _task_recipe(verb: str, task: str | None, overrides: list[str], base: str | None = None) -> Recipe:
    """The settings of a verb that takes a model, perhaps with its base, and a task.

    Raises: SettingsError without a task, or for a recipe.
    """
    if any("=" not in word for word in overrides):
        raise SettingsError(verb, "a recipe beside --model", remedy="give one of the two")
    if task is None:
        raise SettingsError(verb, "--model without --task", "--task arithmetic, reading, choice, …")
    from lotune.recipe import Recipe
    from lotune.settings import read_settings

    named = [] if base is None else [f"base.model={base}"]
    recipe = read_settings(Recipe, None, [*overrides, f"task.name={task}", *named])
    _use_threads(recipe)
    return recipe


def _use_threads(recipe: Recipe) -> None:
    if recipe.threads is not None:
        import torch

        torch.set_num_threads(recipe.threads)


def _at_home(path: Path | None) -> Path | None:
    """A path whose ~ the shell has left, as in --out=~/file, with the home folder in its place."""
    try:
        return None if path is None else path.expanduser()
    except RuntimeError:  # of nobody
        return path


def _carry_out(work: Callable[[], Any], *, json: bool, debug: bool, goes_on: bool = False) -> None:
    """Do the work of a verb and print its result where it is to be JSON; what it raises becomes an exit status.

    `goes_on`: where it is interrupted, the same command goes on from what is written by then.
    """
    from contextlib import nullcontext, redirect_stdout

    try:
        with redirect_stdout(sys.stderr) if json else nullcontext():
            check_words(sys.argv)
            result = work()
    except Exception as error:
        found = as_lotune_error(error)
        if debug or found is None:
            raise
        print_visible(found, file=sys.stderr)
        raise typer.Exit(found.exit_status) from None
    except KeyboardInterrupt:
        more = f" The same command goes on from here: {shlex.join(['lotune', *sys.argv[1:]])}" if goes_on else ""
        print_visible(f"\nInterrupted.{more}", file=sys.stderr)
        raise typer.Exit(130) from None
    if json and result is not None:  # of several processes one has a result
        from lotune.settings import as_json

        print(as_json(result))
