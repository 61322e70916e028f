"""`lotune prepare`: turn rows into examples and examples into tokens, and count everything that is dropped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from lotune.console import print_status
from lotune.data.examples import Example, as_record, from_record
from lotune.data.rows import log_all_malformed
from lotune.data.token_files import FIRST_REPLAY_ROW, TokenFile, find_token_file, link_token_file, write_token_file
from lotune.data.tokenization import encode_rows, rows_digest
from lotune.data.tokenized import EncodedRow, answer_end_id, check_scored_tokens, render_supervision
from lotune.disk_space import require_free_space
from lotune.errors import DataError, SettingsError
from lotune.evaluate.predict import fit
from lotune.evaluate.replay import ReplayCounts
from lotune.evaluate.scorecard import EvaluationSetCounts, evaluation_set_notes
from lotune.evaluate.settings import OnTooLong
from lotune.files import read_json, write_json
from lotune.model.convert.tokenizer_files import find_tokenizer
from lotune.model.loading import (
    NANO,
    PRACTICE_MODEL,
    REAL_MODEL,
    base_folder,
    load_tokenizer,
    meta_model,
    resolve_device,
)
from lotune.model.methods.registry import METHODS
from lotune.model.quantization import check_quantization
from lotune.recipe import Recipe, RunOptions, check_method, require_input_files
from lotune.runs import Run, open_run
from lotune.stages.abilities import abilities_of, retention_sets
from lotune.stages.budget import require_budget
from lotune.stages.dependencies import stage_inputs
from lotune.stages.invalidation import report_changes
from lotune.stages.own_answers import OWN_ANSWERS, needs_own_answers, own_answers
from lotune.stages.prompt_template import build_prompted_task, check_template, resolve_training_template
from lotune.stages.replay import divergence_of, make_replay
from lotune.tasks.baselines import majority_answer
from lotune.tasks.build_datasets import build_datasets, right_by_rule
from lotune.tasks.checks import require_fitting_scorer, require_references
from lotune.tasks.found_labels import with_found_labels
from lotune.tasks.registry import build_task
from lotune.tasks.task import Task

MEASURED_ROWS = 200
"""Number of rows to tokenise for an estimate of the disk space of all rows."""
FEW_BYTES = 2**22
"""Total size of the data files up to which the rows are checked before the model."""
ROW_BYTES = 48
"""Bytes of a row besides its tokens: 16 for its offsets, the remainder for its id."""


@dataclass(frozen=True)
class TokenCounts:
    """Counts of the encoding: rows and tokens to train on, the longest row, rows dropped for their length."""

    rows: int
    tokens: int
    supervised: int
    longest: int
    limit: int
    dropped_too_long: int
    first: str
    """The first row; the tokens that the loss counts are between ⟦ and ⟧."""
    retention_cut: int
    """Retention prompts that were truncated to fit the context."""


def prepare(recipe: Recipe, options: RunOptions) -> dict[str, Any]:
    """Write the data of a run (train tokens, validation, test and retention rows, counts), unless it exists."""
    with open_prepared_run(recipe, options) as (run, recipe):
        return ensure_prepared(run, recipe)


@contextmanager
def open_prepared_run(recipe: Recipe, options: RunOptions) -> Iterator[tuple[Run, Recipe]]:
    """Return a context with the run of a recipe and the recipe, after logging which settings have changed.

    A dry run with changed data leaves the finished run in the folder alone: it prepares its rows in a temporary folder,
    deleted at the end of the context. malformed_rows.txt lists the malformed rows that stop a run.

    Raises: DataError or SettingsError, before a folder is made, for a task that cannot be built, a missing file, or an
    adapter above its budget.
    """
    require_input_files(recipe)
    recipe = _with_found_labels(recipe)
    build_task(recipe.task)
    check_method(recipe)
    require_budget(recipe)
    recipe = resolve_training_template(recipe)
    with open_run(recipe.folder, recipe) as run, log_all_malformed(run.folder / "malformed_rows.txt"):
        report_changes(run, recipe, options.dry_run)
        if not options.dry_run or run.stage_state("prepare", prepare_inputs(recipe)) != "changed":
            yield run, recipe
            return
        print_status("dry run: preparing the rows in a temporary folder; the run does not change")
        with TemporaryDirectory(prefix=".dry-run-", dir=recipe.runs) as folder:
            recipe = recipe.model_copy(update={"runs": Path(folder)})
            with open_run(recipe.folder, recipe) as dry_run:
                yield dry_run, recipe


def _with_found_labels(recipe: Recipe) -> Recipe:
    """Return the recipe with the labels of its training rows if it lists none; log them."""
    task = with_found_labels(recipe.task, recipe.data.train, recipe.data.max_row_bytes)
    if task == recipe.task:
        return recipe
    print_status(f"labels found in data.train (task.labels): {', '.join(task.prompt_settings['labels'])}")
    return recipe.model_copy(update={"task": task})


def ensure_prepared(run: Run, recipe: Recipe) -> dict[str, Any]:
    """Return the counts of the prepared data; prepare it if it is missing or an input has changed."""
    inputs = prepare_inputs(recipe)
    if run.stage_state("prepare", inputs) != "done":
        if recipe.base.model == NANO and recipe.data.train is not None:
            print_status(f"{PRACTICE_MODEL}; for results name a real one, such as base.model={REAL_MODEL}")
        print_status("preparing the rows")
        _write_data(run, recipe)
        run.mark_stage_done("prepare", inputs, [run.folder / "data"])
    counts: dict[str, Any] = read_json(run.folder / "data" / "counts.json")
    print_status(describe_counts(counts))
    return counts


def prepare_inputs(recipe: Recipe) -> dict[str, Any]:
    """Return the inputs of the prepared data: settings, and the tokeniser's file of a base in a folder."""
    folder = base_folder(recipe.base)
    file = find_tokenizer(folder) if folder is not None else None
    tokenizer = {"base.tokenizer": file} if file is not None else {}
    return {**stage_inputs(recipe, "prepare"), **tokenizer}


def training_examples(recipe: Recipe) -> Sequence[Example]:
    """Return the examples that a recipe trains on, without the replayed ones, read again from its rows."""
    task = build_prompted_task(recipe.task, recipe.base)
    tests, watched = retention_sets(recipe, abilities_of(recipe))
    return build_datasets(task, recipe.data, recipe.seed, _held_out(tests, watched)).train


def _held_out(tests: Mapping[str, Any], watched: Mapping[str, Sequence[Example]]) -> dict[str, Sequence[Example]]:
    """Return the rows of the retention sets, which no training row may share."""
    retention = {name: rows.examples for name, rows in tests.items()}
    return {**retention, **{name: rows for name, rows in watched.items() if rows}}


def read_examples(path: Path) -> list[Example]:
    """Return the examples of one of the run's files."""
    import orjson

    with path.open("rb") as file:
        return [from_record(orjson.loads(line)) for line in file]


def _write_data(run: Run, recipe: Recipe) -> None:
    """Write the data; raise all errors about the input before anything in the run changes."""
    task = build_prompted_task(recipe.task, recipe.base)
    for start in (base_folder(recipe.base), recipe.adapter.init_from):
        check_template(recipe.task, start)
    # The faster check comes first, so that its errors do not wait for the slower one.
    loaded = None if _is_small_data(recipe) else _check_model(recipe)
    abilities = abilities_of(recipe)
    tests, watched = retention_sets(recipe, abilities)
    retention = {name: rows.examples for name, rows in tests.items()}
    data = build_datasets(task, recipe.data, recipe.seed, _held_out(tests, watched))
    require_references(task, recipe.task, data.test, recipe.data.test or recipe.data.train)
    require_fitting_scorer(task, data.test)
    for one in abilities:
        require_references(one.task, one.task_settings, retention[one.test_set], one.settings.data)
    tokenizer, context = loaded or _check_model(recipe)
    limit = min(recipe.data.max_length or context, context)
    folder = run.folder / "data"
    candidates = [path.parent / "train" for path in recipe.runs.glob("*/data/train.tokens.json")]
    sets: dict[str, Sequence[Example]] = {"validation": data.validation, "test": data.test, **retention}
    file_rows = {**data.file_rows, **{name: rows.file_rows for name, rows in tests.items()}}
    set_counts, too_long = _count_evaluation_sets(recipe, sets, task, file_rows, tokenizer, context)
    sets |= watched
    sets[OWN_ANSWERS] = own_answers(recipe) if needs_own_answers(abilities, watched) else []
    replay = make_replay(recipe, len(data.train), sets)
    parts = data.train, replay.examples
    needed = prepared_bytes(tokenizer, parts, chain.from_iterable(sets.values()))
    require_free_space(run.folder, needed, "preparing")
    whole = divergence_of(recipe) > 0
    file = _train_tokens(folder / "train", tokenizer, parts, limit, recipe.data.on_too_long, needed, candidates, whole)
    # From here on no row can be refused. A token file that a crash leaves behind is found again by its digest.
    run.invalidate_stage("prepare")
    for name, examples in {**sets, "replay": replay.examples}.items():
        _write_examples(folder / f"{name}.jsonl", examples)
    tokens = TokenCounts(
        len(file), int(file.lengths().sum()), file.supervised(), int(file.lengths().max()), limit,
        file.metadata()["dropped_too_long"], render_supervision(tokenizer, file[0]),
        sum(counts.cut for counts in set_counts if counts.name in tests),
    )  # fmt: skip
    write_json(folder / "counts.json", {
        "rows": asdict(data.counts), "replay": replay.counts.model_dump(), "tokens": asdict(tokens),
        "retention_validation": sum(map(len, watched.values())), OWN_ANSWERS: len(sets[OWN_ANSWERS]),
        "asked": [counts.model_dump() for counts in set_counts], "too_long": too_long,
        "right_by_rule": right_by_rule(task, data.train),
        "majority": None if (majority := majority_answer(task, data.train)) is None else majority._asdict(),
    })  # fmt: skip


def _count_evaluation_sets(
    recipe: Recipe,
    sets: Mapping[str, Sequence[Example]],
    target: Task,
    file_rows: Mapping[str, int | None],
    tokenizer: Any,
    context: int,
) -> tuple[list[EvaluationSetCounts], dict[str, int]]:
    """Return the counts of each evaluation set, and how many of its prompts are too long without truncation."""
    retained = {one.test_set: one for one in abilities_of(recipe)}
    files = {"validation": recipe.data.validation, "test": recipe.data.test}
    files |= {name: one.settings.data for name, one in retained.items()}
    mode, set_counts, too_long = recipe.evaluate.on_too_long, [], {}
    for name, examples in sets.items():
        task, file = retained[name].task if name in retained else target, files[name]
        long, cut = _count_long(tokenizer, examples, task, context, name, mode)
        too_long[name] = long
        unanswered, shorter = (0, cut + long) if mode == "truncate" else (long, cut)
        treated = {"left_out" if task.scores_references else "too_long": unanswered, "cut": shorter}
        where = {"file": file.name if file else "", "file_rows": file_rows.get(name)}
        set_counts.append(EvaluationSetCounts(name=name, rows=len(examples), **where, **treated))
    return set_counts, too_long


def _is_small_data(recipe: Recipe) -> bool:
    """Return whether reading the rows takes less time than importing the libraries that check the model."""
    named = [path for path in (recipe.data.train, recipe.data.validation, recipe.data.test) if path is not None]
    files = chain.from_iterable([path, *path.rglob("*")] for path in named)
    return bool(named) and sum(file.stat().st_size for file in files) <= FEW_BYTES


def _check_start_base(recipe: Recipe, start: Path) -> None:
    """Raise ModelError if an adapter to start with was made for another base, unless forced; warn if it is unknown."""
    from lotune.model.checkpoints import base_digest, check_base
    from lotune.model.weight_files import weight_files

    if base_digest(start) is None:
        print_status(
            f"{start} does not record which weights it was trained on; those of {recipe.base.model} may differ"
        )
    if (folder := base_folder(recipe.base)) is not None:  # a base of the hub is compared once it is loaded
        weights = weight_files(folder, recipe.base.model)
        check_base(start, recipe.base.model, weights, force=recipe.adapter.force_base)


def _check_model(recipe: Recipe) -> tuple[Any, int]:
    """Return the tokeniser and the number of context tokens that the adapter leaves for a row.

    Raises: SettingsError or ModelError if the device or the model cannot do what the recipe requests.
    """
    resolve_device(recipe.device)
    adapter, method = recipe.adapter, METHODS[recipe.adapter.method]
    if adapter.init_from is not None:
        from lotune.model.checkpoints import check_init_adapter

        adapter = check_init_adapter(adapter)
    check_quantization(recipe.tune.quantization, recipe.device)
    tokenizer, context = load_tokenizer(recipe.base)
    if adapter.init_from is not None:
        _check_start_base(recipe, adapter.init_from)
    else:
        method.parameter_count(adapter, meta_model(recipe.base))  # raises an error for targets that the model lacks
    virtual = method.num_virtual_tokens(adapter)
    if virtual >= context - 1:
        found, remedy = f"{virtual} virtual tokens fill the context of {context} tokens", "fewer of them"
        raise SettingsError("adapter.num_virtual_tokens", found, "space for a prompt and its answer", remedy)
    return tokenizer, context - virtual


def prepared_bytes(tokenizer: Any, parts: Sequence[Sequence[Example]], evaluation_rows: Iterable[Example]) -> int:
    """Return an estimate of the bytes of the prepared data: tokens, offsets and ids of the rows, and evaluation rows.

    The tokens of the first MEASURED_ROWS rows are extrapolated to all rows.
    """
    import orjson

    token_bytes, needed = 2 if len(tokenizer) <= 2**16 else 4, 0
    for part in parts:
        first = list(islice(part, MEASURED_ROWS))
        tokens = sum(len(row.token_ids) for row in encode_rows(tokenizer, first))
        needed += (tokens * token_bytes + ROW_BYTES * len(first)) * len(part) // max(1, len(first))
    return needed + sum(1 + len(orjson.dumps(as_record(example))) for example in evaluation_rows)


def _write_examples(path: Path, examples: Sequence[Example]) -> None:
    from lotune.data.rows import write_jsonl

    write_jsonl(path, (as_record(example) for example in examples))


def _train_tokens(
    stem: Path,
    tokenizer: Any,
    parts: Sequence[Sequence[Example]],
    limit: int,
    too_long: str,
    needed: int = 0,
    candidates: Iterable[Path] = (),
    whole_replay: bool = False,
) -> TokenFile:
    """Return examples, then replay rows, as a token file: an existing one of the same rows in any run, or a new one.

    With `whole_replay`, all tokens of a replay row are scored, not its answer alone.
    """
    replay_from = len(parts[0])
    settings = {"limit": limit, "too_long": too_long, "replay_from": replay_from}
    settings |= {"whole_replay": True} if whole_replay else {}
    digest = rows_digest(tokenizer, chain.from_iterable(parts), settings)
    existing = find_token_file(stem, digest)
    if existing is not None:
        print_status(f"the training rows have not changed: reusing the tokens in {stem}.tokens.npy")
        return existing
    if (linked := link_token_file(stem, candidates, digest)) is not None:
        print_status("another run has tokenised the same training rows: reusing its tokens")
        return linked
    notes = {"digest": digest, "dropped_too_long": 0}
    encoded = chain.from_iterable(
        _whole(encode_rows(tokenizer, part)) if whole_replay and number else encode_rows(tokenizer, part)
        for number, part in enumerate(parts)
    )
    end_ids = {answer_end_id(tokenizer, example) for part in parts for example in part[:1]}
    rows = _drop_too_long(encoded, limit, too_long, end_ids, notes, replay_from)
    return write_token_file(stem, rows, len(tokenizer), notes, needed)


def _whole(rows: Iterable[EncodedRow]) -> Iterator[EncodedRow]:
    """Yield the rows with all tokens but the first one scored."""
    # What the base says of a question shows as much of it as its answer does, and costs nothing more.
    return (replace(row, completion_start=1, earlier_completions=()) for row in rows)


def _drop_too_long(
    rows: Iterable[EncodedRow], limit: int, too_long: str, end_ids: set[int], notes: dict[str, Any], replay_from: int
) -> Iterator[EncodedRow]:
    """Yield the rows of at most `limit` tokens, and count the longer ones in `notes` as `dropped_too_long`.

    Rows from number `replay_from` on replay the retention task; `notes` gets the index of the first remaining one.

    Raises: DataError if a row is longer and that stops the run, if none remains, or if one has no token to train on.
    """
    remaining, long_ids = 0, []
    for number, row in enumerate(rows):
        if number == replay_from:
            notes[FIRST_REPLAY_ROW] = remaining
        if len(row.token_ids) > limit:
            long_ids.append(row.id)
            continue
        check_scored_tokens(row, end_ids)
        remaining += 1
        yield row
    # At the end and not at the first one, so that the error counts them all.
    if long_ids and too_long == "stop":
        found = f"{len(long_ids)} rows are too long: {', '.join(long_ids[:10])}"
        raise DataError("data.train", found, f"{limit} tokens", "data.on_too_long=drop")
    if not remaining:
        raise DataError("data.train", f"every row is longer than {limit} tokens", remedy="raise data.max_length")
    notes["dropped_too_long"] = len(long_ids)


def _count_long(
    tokenizer: Any, examples: Sequence[Example], task: Task, context: int, name: str, mode: OnTooLong
) -> tuple[int, int]:
    """Return how many prompts are too long even with a truncated passage, and how many others are truncated.

    Raises: DataError if one is too long and that stops the run, if all are and count as wrong, or if no validation row
    fits into the context together with its reference.
    """
    long_ids: list[str] = []
    cut = 0
    for example in examples:
        prompt = fit(task, example, tokenizer, context, "wrong")
        if prompt is None:
            long_ids.append(example.id)
        cut += prompt is not None and prompt.prompt_truncated
    remedy = "shorten them, lower task.max_new_tokens, or take a base with a longer context"
    if long_ids and mode == "stop":
        some = f"{len(long_ids)} prompts are too long for the model: {', '.join(long_ids[:10])}"
        raise DataError(f"{name} rows", some, f"{context} tokens with the answer", remedy)
    # A checkpoint's loss is measured on validation rows with their references, so one must fit.
    measured = name != "validation" or any(len(row.token_ids) <= context for row in encode_rows(tokenizer, examples))
    if (len(long_ids) == len(examples) and mode != "truncate") or not measured:
        raise DataError(
            f"{name} rows", "all prompts are too long for the model", f"{context} tokens with the answer", remedy
        )
    return len(long_ids), cut


def accepted_references_clause(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return a clause with the percentage of training references that each rule of scoring accepts.

    >>> accepted_references_clause({"significant:5": {"right": 40, "rows": 40}, "exact": {"right": 25, "rows": 40}})
    'training references that each rule accepts: significant:5 100 %, exact 62.5 % (of 40 rows)'
    """
    rows = max(count["rows"] for count in counts.values())
    named = (  # at most 99.9 if one is wrong: rounding must not claim that all are right
        f"{rule} 100 %" if count["right"] == count["rows"] else f"{rule} {min(99.9, 100 * count['right'] / rows):.1f} %"
        for rule, count in counts.items()
    )
    return f"training references that each rule accepts: {', '.join(named)} (of {rows:,} rows)"


def describe_counts(counts: dict[str, Any]) -> str:
    """Return the counts as lines for a person to read."""
    rows, tokens = counts["rows"], counts["tokens"]
    evaluation_sets = [EvaluationSetCounts(**record) for record in counts["asked"]]
    fraction = tokens["supervised"] / tokens["tokens"]
    lines = [
        f"rows: {rows['read']} read, {rows['malformed']} malformed, {rows['duplicates']} duplicates removed, "
        f"{rows['not_sampled']} not sampled, {rows['validation']} to validation, {rows['test']} to the test, "
        f"{rows['kept']} kept",
        *(
            f"overlap with {name}: {overlap['exact']} exact, {overlap['normalised']} after normalising"
            + (f", {overlap['same_source']} of the same articles" if overlap.get("same_source") else "")
            + " (removed from training)"
            for name, overlap in rows["overlap"]["sets"].items()
        ),
        f"tokens: {tokens['tokens']:,} in {tokens['rows']} rows, {fraction:.0%} supervised, "
        f"longest {tokens['longest']}, {tokens['dropped_too_long']} dropped as longer than {tokens['limit']}",
        *(
            [f"validation rows removed because the test set contains them: {removed}"]
            if (removed := rows.get("validation_removed"))
            else []
        ),
        ReplayCounts.from_counts(counts).describe(),
        f"retention prompts truncated to fit: {tokens['retention_cut']}",
        *([accepted_references_clause(right_counts)] if (right_counts := counts.get("right_by_rule")) else []),
        *evaluation_set_notes(evaluation_sets),
        _describe_answers(evaluation_sets),
        "first row, supervised between ⟦ and ⟧:",
        tokens["first"],
    ]
    return "\n".join(lines)


def _describe_answers(evaluation_sets: Sequence[EvaluationSetCounts]) -> str:
    """Return how many rows of each set are to be answered; the sets behind the first two are those of retention."""
    validation, test, *retained = (one.rows - one.too_long - one.left_out for one in evaluation_sets)
    twice = f"{test:,} test and {sum(retained):,} retention rows, twice"
    return f"to be answered: {validation:,} validation rows at each checkpoint; {twice}"
