"""A model asked all examples of a task, with a bar: validating a checkpoint, testing a run, testing a model alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from lotune.data.examples import Example
from lotune.data.rows import nearest_names
from lotune.errors import DataError, ModelError, SettingsError
from lotune.evaluate.facts import Facts
from lotune.evaluate.predict import TOO_LONG, Prediction, check_room, fit, parse_predictions, predict
from lotune.evaluate.scorecard import AskedRows
from lotune.evaluate.settings import OnTooLong
from lotune.memory import free_bytes
from lotune.model.answering import TOO_LARGE, Format, answering_format
from lotune.model.base import (
    Base,
    base_folder,
    context_length,
    load_base,
    load_tokenizer,
    resolve_device,
)
from lotune.model.logits import NotFiniteLogitsError
from lotune.model.settings import ADAPTER_CONFIG, BaseSettings
from lotune.recipe import Recipe
from lotune.report.progress import Progress, say
from lotune.runs import inputs_mark, read_json
from lotune.stages.outputs import in_parts
from lotune.tasks.settings import TaskSettings
from lotune.tasks.task import Choosing, Task
from lotune.train.parallel import World, processes

if TYPE_CHECKING:
    from lotune.generate.sampling import Sampling


@dataclass(frozen=True)
class Asking:
    """A model that is asked, and how.

    `title` is that of the bar, `stop` ends an answer beside the task's own texts, `mark` is that of `answers_mark`;
    `sampling`, `facts` and `on_too_long` are those of `predict`.
    """

    title: str
    model: Any
    tokenizer: Any
    batch_tokens: int
    stop: tuple[str, ...] = ()
    mark: str = ""
    sampling: Sampling | None = None
    facts: Facts | None = None
    on_too_long: OnTooLong = "wrong"


Ask = Callable[[Asking, Task, Sequence[Example], Path | None], list[Prediction]]
"""How examples are asked: `ask`, or `ask_alone`."""


def check_engine(recipe: Recipe, task: Task) -> None:
    """Nothing, where the engine of the settings can ask a task. Raises: SettingsError where vLLM cannot."""
    if recipe.evaluate.engine == "lotune":
        return
    found = "several processes under torchrun" if processes() > 1 else ""
    if isinstance(task, Choosing) and task.chooses:
        found = "choosing by likelihood"
    if found:
        raise _not_with_vllm(found)


def _not_with_vllm(found: str) -> SettingsError:
    return SettingsError("evaluate.engine", f"vllm does not do this: {found}", remedy="evaluate.engine=lotune")


def answering_with(recipe: Recipe, settings: BaseSettings) -> Format:
    """Return the number format that a model answers in, by the settings, and what decided it."""
    wanted = recipe.base.dtype if recipe.evaluate.dtype == "auto" else recipe.evaluate.dtype
    return answering_format(wanted, settings, resolve_device(recipe.device))


def too_large(found: Format) -> bool:
    """Whether weights that are too large for the free memory decided a format."""
    return found.why.startswith(TOO_LARGE)


def settled(recipe: Recipe, model: str) -> Recipe:
    """Return the recipe with the number format that `model` answers in as `evaluate.dtype`; say it if memory decides.

    The free memory is looked at once, so that all that is said and done in a command agrees.
    """
    found = answering_with(recipe, weights_of(recipe, model)[0])
    if too_large(found):
        say(f"{model} answers in {found.dtype}: {found.why}")
    return answering_in(recipe, found.dtype)


def answering_in(recipe: Recipe, dtype: str) -> Recipe:
    """Return the recipe with a number format as its `evaluate.dtype`."""
    return recipe.model_copy(update={"evaluate": recipe.evaluate.model_copy(update={"dtype": dtype})})


def asked_settings(recipe: Recipe, settings: BaseSettings) -> BaseSettings:
    """Return the settings of a model that is loaded to be asked: its weights are in `evaluate.dtype`."""
    return settings.model_copy(update={"dtype": answering_with(recipe, settings).dtype})


def weights_of(recipe: Recipe, model: str) -> tuple[BaseSettings, Path | None]:
    """The complete model that `model` names, or the base of the adapter that it names and the adapter's folder.

    The base is the one of the settings where they name one (--base), else the one that the adapter was made for.
    Raises: ModelError for a folder that is missing, or an adapter that names no base; SettingsError for a base beside a
    complete model.
    """
    settings = recipe.base.model_copy(update={"model": model})
    folder, named = base_folder(settings), "model" in recipe.base.model_fields_set
    if folder is None or not (folder / ADAPTER_CONFIG).is_file():
        if named:
            raise SettingsError("--base", f"{model} is a complete model, and no adapter", remedy="leave it out")
        return settings, None
    config = read_json(folder / ADAPTER_CONFIG)
    its = recipe.base.model if named else config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(its, str) or not its:
        raise ModelError(model, "is an adapter that names no base", remedy="name it with --base")
    return settings.model_copy(update={"model": its}), folder


def load_model(recipe: Recipe, model: str) -> Base:
    """The model that `model` names; an adapter stands beside the weights of its base.

    Raises: ModelError as `weights_of`, `load_base` and `load_adapter`.
    """
    from lotune.model.checkpoints import base_digest, load_adapter

    settings, adapter = weights_of(recipe, model)
    try:
        base = load_base(asked_settings(recipe, settings), recipe.device)
    except ModelError as error:
        if adapter is None or "model" in recipe.base.model_fields_set:
            raise
        found = f"its base cannot be loaded: {error.where}: {error.found}"
        raise ModelError(model, found, "the model that it was made for", "name it with --base") from error
    if adapter is None:
        return base
    if base_digest(adapter) is None:
        say(f"{model} does not say for which weights it was made: those of {base.name} may be others")
    adapted: Any = load_adapter(base, adapter, force_base=recipe.adapter.force_base)
    adapted.name_or_path = model
    return replace(base, name=model, model=adapted)


def answering_block(recipe: Recipe, model: Any, in_shards: bool) -> AbstractContextManager[None]:
    """Return a block in which a model answers in float32, if the evaluation does and its whole weights have room."""
    from lotune.model.rest import REDUCED, in_float32_for_now

    weights = [weight for weight in model.parameters() if weight.dtype in REDUCED]
    free, needed = free_bytes(weights[0].device) if weights else None, sum(4 * weight.numel() for weight in weights)
    wanted = answering_with(recipe, recipe.base).dtype == "float32"
    return in_float32_for_now(model) if wanted and not in_shards and needed < (free or 0) else nullcontext()


def load_answering(recipe: Recipe, model: str) -> tuple[Any, Any]:
    """What `model` names, held by the engine of the settings (a model of transformers, or Vllm); its tokeniser.

    Raises: ModelError as `load_model` and Vllm do; SettingsError where vLLM cannot hold it.
    """
    if recipe.evaluate.engine == "vllm":
        settings, adapter = weights_of(recipe, model)
        if adapter is not None:
            raise _not_with_vllm("an adapter beside its base")
        from lotune.generate.vllm import Vllm

        tokenizer, _ = load_tokenizer(settings)
        return Vllm(asked_settings(recipe, settings), tokenizer), tokenizer
    base = load_model(recipe, model)
    return base.model, base.tokenizer


def computes_on(recipe: Recipe) -> dict[str, str]:
    """The device and the number format that a model answers in, by the settings."""
    return {"device": resolve_device(recipe.device), "dtype": answering_with(recipe, recipe.base).dtype}


def ask(asking: Asking, task: Task, examples: Sequence[Example], out: Path | None = None) -> list[Prediction]:
    """Predictions on all examples; written one a line to `out` as they come, those that stand there are kept.

    Raises: NotFiniteLogitsError, named by the title; SettingsError as `check_room`.
    """
    context, done = context_length(asking.model), []
    if not (isinstance(task, Choosing) and task.chooses):
        check_room(task.max_new_tokens, context)
    with Progress(asking.title, len(examples)) as progress, naming_the_model(asking.title):
        for prediction in predict(
            task, examples, asking.model, asking.tokenizer, batch_tokens=asking.batch_tokens, out=out, context=context,
            stop=asking.stop, mark=asking.mark, sampling=asking.sampling, facts=asking.facts,
            on_too_long=asking.on_too_long,
        ):  # fmt: skip
            done.append(prediction)
            progress.advance(len(done))
    return done


def ask_alone(asking: Asking, task: Task, examples: Sequence[Example], out: Path | None = None) -> list[Prediction]:
    """Predictions on all examples as `ask` gives them, each of which is asked with nothing beside or before it."""
    context, done = context_length(asking.model), list[Prediction]()
    with Progress(asking.title, len(examples)) as progress, naming_the_model(asking.title):
        for example in examples:
            done += predict(
                task, [example], asking.model, asking.tokenizer, batch_tokens=1, out=out, context=context,
                stop=asking.stop, mark=asking.mark, sampling=asking.sampling, facts=asking.facts,
                on_too_long=asking.on_too_long,
            )  # fmt: skip
            progress.advance(len(done))
    return done


@contextmanager
def naming_the_model(title: str) -> Iterator[None]:
    """Put the title in the place of the model's name where its logits are not finite."""
    try:
        yield
    except NotFiniteLogitsError as error:
        raise error.named(title) from None


def ask_together(
    asking: Asking, task: Task, examples: Sequence[Example], out: Path | None, world: World, how: Ask = ask
) -> list[Prediction]:
    """The same by several processes, each of which asks every so many-th example; all have all, in the examples' order.

    `out` is written as `in_parts` does it; `how` is `ask` or `ask_alone`.
    Raises: PromptTooLongError where a prompt is too long and that stops, in each process and before one is asked.
    """
    if asking.on_too_long == "stop":
        for example in examples:
            fit(task, example, asking.tokenizer, context_length(asking.model), "stop")

    def work(own: Path | None) -> bytes:
        found = how(asking, task, examples[world.rank :: world.size], own)
        return b"".join(orjson.dumps(prediction.record()) + b"\n" for prediction in found)

    everyone = in_parts(out, world, work)
    places = {example.id: place for place, example in enumerate(examples)}
    found = [one for rank, part in enumerate(everyone, start=1) for one in parse_predictions(part, f"process {rank}")]
    return sorted(found, key=lambda one: places[one.example_id])


def measured_rows(rows: AskedRows, answers: Sequence[Prediction]) -> AskedRows:
    """The rows with the number of prompts that were too long, and of those that were cut, as their answers say."""
    too_long = sum(one.stopped_by == TOO_LONG for one in answers)
    return rows.model_copy(update={"too_long": too_long, "cut": sum(one.cut for one in answers)})


def check_judgeable(task: Task, settings: TaskSettings, examples: Sequence[Example], data: Path | None) -> None:
    """Nothing, where a row at least has a key that can be judged. Raises: DataError, with the nearest column."""
    if any(task.judge(example, "").right is not None for example in examples):
        return
    found = f"none of {len(examples)} rows has a key that can be judged"
    if data is None:
        raise DataError(task.name, found)
    rows = [row for _, row in task.read(data, on_error="skip").rows]
    row, near = rows[0], ""
    there = f" (the first has {', '.join(row)})"
    if settings.name == "custom" and not any(settings.answer in one for one in rows):
        found, near = f"no row has the column {settings.answer!r} of task.answer", nearest_names([settings.answer], row)
    raise DataError(str(data), found + there + near, "rows with their keys", "`lotune generate` answers without keys")


def answers_mark(recipe: Recipe, model: str, task: TaskSettings, **more: Any) -> str:
    """The fingerprint of all that an answer depends on beside its prompt: weights, number format, engine, settings.

    How an answer is judged is not among it, unless it is chosen in that way; `more` counts, a Path by its content.
    """
    settings, adapter = weights_of(recipe, model)
    chosen, dtype = (task.judge or "").startswith("likelihood"), answering_with(recipe, settings).dtype
    inputs = {
        "model": base_folder(settings) or settings.model, "adapter": adapter, "dtype": dtype,
        "engine": recipe.evaluate.engine, "on_too_long": recipe.evaluate.on_too_long,
        "task": task.model_dump(exclude=set() if chosen else {"judge"}), **more,
    }  # fmt: skip
    return inputs_mark(inputs)[:16]
