"""Verify a bundle from outside: its files, its checkpoints, and every claimed figure, measured again from its content.

Nothing in a bundle is believed: ratios come from the tensors of the adapters, scores from the answers, judged again.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isclose, prod
from pathlib import Path
from typing import Any

import orjson

from lotune.contest.archive_reader import Archive, HostileArchiveError
from lotune.contest.bundle import ANSWERS, REQUIRED, SCORECARD, SELF_TEST
from lotune.contest.logs import RETENTION_LOG, TRAINING_LOG, logged_answers, logged_steps
from lotune.contest.manifest import MANIFEST, Claims, Manifest, claims_of, five_evenly_spaced
from lotune.contest.scores import score
from lotune.data.examples import Example, from_record
from lotune.errors import DataError, LotuneError
from lotune.evaluate.abilities import AbilitySettings
from lotune.evaluate.measured_retention import measure_retention
from lotune.evaluate.parameter_ratio import count_adapter, ratio
from lotune.evaluate.predict import Prediction, keep_predictions, read_predictions
from lotune.evaluate.retention import RetentionMetric, gate_passed
from lotune.evaluate.scorecard import Check, Scorecard, Target
from lotune.evaluate.target import ScoredExample, measure_target
from lotune.tasks.task import Task

HAND_IN = ("README.md", "method.md", "inference.md", SELF_TEST, ANSWERS, "report.html", "report.md", *REQUIRED)
"""Members that the contest asks for; the checkpoints and the answers of the models stand beside them."""
MERGED_FILES = ("config.json", "tokenizer_config.json")
"""Files of a complete model, beside its weights."""
BASE = "base"


@dataclass(frozen=True)
class JudgedRows:
    """A set of rows in a bundle with their task, and the folder of the answers; `ability` is None for the task's."""

    task: Task
    rows: str
    folder: str
    ability: AbilitySettings | None = None
    min_retained: float = 0.0


@dataclass(frozen=True)
class Bundle:
    """An open bundle, with a temporary folder into which its small files may be unpacked."""

    archive: Archive
    manifest: Manifest
    folder: Path

    @property
    def claims(self) -> Claims:
        """The claimed figures."""
        return self.manifest.claims


def file_checks(bundle: Bundle, measured: Callable[[int], None]) -> Iterator[Check]:
    """Yield the checks of the members: which there are, their digests, and what the contest asks for.

    `measured` gets the number of members whose digest has been measured.
    """
    archive, manifest = bundle.archive, bundle.manifest
    listed = {member.path: member for member in manifest.members}
    present = [name for name in archive.names if name != MANIFEST]
    yield _check("files", _differences(listed, present), f"{len(present)} files, all in the manifest")
    wrong = []
    for number, name in enumerate(present, 1):
        if name in listed and archive.measure(name) != listed[name]:
            wrong.append(f"{name} differs from its digest")
        measured(number)
    yield _check("checksums", wrong, f"sha256 of {len(present)} files")
    missing = [f"{name} is missing" for name in HAND_IN if name not in archive]
    yield _check("hand-in", missing, "all that the contest asks for")
    yield _check("complete checkpoints", _named_twice(manifest) + _incomplete(bundle), _merged_clause(manifest))


def _differences(listed: Mapping[str, Any], present: Sequence[str]) -> list[str]:
    faults = [f"{name} is missing" for name in listed if name not in present]
    return faults + [f"{name} is not in the manifest" for name in present if name not in listed]


def _incomplete(bundle: Bundle) -> list[str]:
    faults, names = [], bundle.archive.names
    left_out = [member.path for member in bundle.manifest.left_out]
    for one in bundle.manifest.checkpoints:
        places = {"included": names, "left out": left_out}.get(one.merged)
        if places is None:
            continue
        below = f"checkpoints/{one.name}/merged/"
        files = [name.removeprefix(below) for name in places if name.startswith(below)]
        missing = [name for name in MERGED_FILES if name not in files]
        if not any(name.endswith(".safetensors") for name in files):
            missing.append("weights in safetensors")
        faults += [f"{below} lacks {', '.join(missing)}"] if missing else []
    return faults


def _named_twice(manifest: Manifest) -> list[str]:
    counts = Counter(one.name for one in manifest.checkpoints)
    return [f"{name} is named {count} times" for name, count in counts.items() if count > 1]


def _merged_clause(manifest: Manifest) -> str:
    counts = Counter(one.merged for one in manifest.checkpoints)
    clause = "merged models: " + ", ".join(f"{number} {kind}" for kind, number in sorted(counts.items()))
    # No fault: the learning rate of a very short training may be 0 between two checkpoints.
    adapters = [one.sha256 for one in manifest.members if one.path.endswith("/adapter/adapter_model.safetensors")]
    copies = len(adapters) - len(set(adapters))
    return clause + (f"; {copies} adapters have the weights of another" if copies else "")


def training_checks(bundle: Bundle) -> Iterator[Check]:
    """Yield the checks of the training: its complete log, and the number and spacing of the checkpoints."""
    claims, manifest = bundle.claims, bundle.manifest
    yield checked("training log", lambda: _training_log(bundle))
    spacing = five_evenly_spaced([one.step for one in manifest.checkpoints], claims.steps)
    yield spacing
    yield _check(
        "claimed spacing",
        [] if spacing == claims.spacing else [f"claimed {claims.spacing.detail!r}, found {spacing.detail!r}"],
        "as found",
    )


def _training_log(bundle: Bundle) -> Check:
    log = bundle.archive.read(TRAINING_LOG).decode()
    steps, claimed = logged_steps(log), bundle.claims.steps
    faults = [] if steps == list(range(1, claimed + 1)) else [f"{len(steps)} steps in the log, {claimed} claimed"]
    last = max((one.step for one in bundle.manifest.checkpoints), default=0)
    faults += [f"the last checkpoint follows step {last} of {claimed}"] if last > claimed else []
    return _check("training log", faults, f"{len(steps)} steps")


def ratio_checks(bundle: Bundle) -> Iterator[Check]:
    """Yield the checks of the parameter ratio, from the tensors of the adapters and of merged models."""
    yield checked("adapters", lambda: _adapters(bundle))
    yield checked("base total", lambda: _base_total(bundle))
    yield checked("ratio", lambda: _ratio(bundle))


def _trainable(bundle: Bundle, name: str) -> int:
    below = f"checkpoints/{name}/adapter/"
    if not (bundle.folder / below).exists():
        bundle.archive.extract(below, bundle.folder)
    return count_adapter(bundle.folder / below).trainable


def _adapters(bundle: Bundle) -> Check:
    found = {one.name: _trainable(bundle, one.name) for one in bundle.manifest.checkpoints}
    faults = [
        f"{one.name} holds {found[one.name]:,} trained parameters, {one.trainable:,} claimed"
        for one in bundle.manifest.checkpoints
        if found[one.name] != one.trainable
    ]
    return _check("adapters", faults, f"{len(found)} in safetensors, {min(found.values(), default=0):,} parameters")


def _base_total(bundle: Bundle) -> Check:
    claims = bundle.claims
    included = [one.name for one in bundle.manifest.checkpoints if one.merged == "included"]
    if not included:
        return Check(name="base total", passed=None, detail="no merged model is included to count it from")
    totals = {name: _parameters(bundle.archive, f"checkpoints/{name}/merged/") for name in included}
    faults = [
        f"{name} has {total:,} parameters, {claims.base_total:,} claimed"
        for name, total in totals.items()
        if total != claims.base_total
    ]
    return _check("base total", faults, f"{claims.base_total:,} parameters in each of {len(totals)} merged models")


def _parameters(archive: Archive, below: str) -> int:
    """Return the number of elements in the safetensors files below a path, from their headers."""
    files = [name for name in archive.names if name.startswith(below) and name.endswith(".safetensors")]
    return sum(prod(entry["shape"]) for name in files for entry in tensor_entries(archive, name).values())


def tensor_entries(archive: Archive, path: str) -> dict[str, Any]:
    """Return the entries of a safetensors header by the name of the tensor; only the header is read.

    Raises: HostileArchiveError if it is damaged.
    """
    head = b""
    for chunk in archive.chunks(path):
        head += chunk
        # The reader has checked that eight bytes of a size of at most 100 MiB come first.
        if len(head) >= 8 + struct.unpack("<Q", head[:8])[0]:
            break
    try:
        header = json.loads(head[8 : 8 + struct.unpack("<Q", head[:8])[0]])
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        if all(isinstance(size, int) and size >= 0 for entry in entries.values() for size in entry["shape"]):
            return entries
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        pass
    raise HostileArchiveError(archive.path, path, "is not in the format of safetensors, as its name says")


def _ratio(bundle: Bundle) -> Check:
    claims, faults = bundle.claims, []
    names = [one.name for one in bundle.manifest.checkpoints]
    if claims.chosen_checkpoint not in names:
        return Check(name="ratio", passed=False, detail=f"{claims.chosen_checkpoint} is no checkpoint of the bundle")
    trainable = _trainable(bundle, claims.chosen_checkpoint)
    if trainable != claims.trainable:
        faults.append(f"{trainable:,} trained parameters in {claims.chosen_checkpoint}, {claims.trainable:,} claimed")
    measured = ratio(trainable, claims.base_total, claims.convention)
    if not _equal(measured, claims.ratio):
        faults.append(f"{measured!r} measured, {claims.ratio!r} claimed")
    return _check("ratio", faults, f"{measured!r} by the convention {claims.convention}")


def answer_checks(bundle: Bundle, target: JudgedRows, abilities: Sequence[JudgedRows]) -> Iterator[Check]:
    """Yield the checks of the answers: complete, judged again with the same figures, and scored by the same formula."""
    yield checked("answers", lambda: _answers(bundle, target))
    yield checked("retention log", lambda: _retention_log(bundle, abilities))
    figures = list[Target]()
    yield checked("accuracy", lambda: _accuracy(bundle, target, figures))
    lines = list[RetentionMetric]()
    yield checked("retention", lambda: _retention(bundle, abilities, lines))
    yield checked("score", lambda: _score(bundle.claims, figures))
    yield checked("verdict", lambda: _verdict(bundle.claims, figures, lines))
    yield checked("scorecard", lambda: _scorecard(bundle))


def _answers(bundle: Bundle, target: JudgedRows) -> Check:
    predictions = _stored(bundle, target, bundle.claims.chosen_checkpoint)
    handed_in = [orjson.loads(line) for line in bundle.archive.read(ANSWERS).splitlines()]
    texts = {prediction.example_id: prediction.text for prediction in predictions}
    faults = []
    if {row["id"]: row["answer"] for row in handed_in} != texts or len(handed_in) != len(texts):
        faults.append(f"{ANSWERS} differs from the predictions of {bundle.claims.chosen_checkpoint}")
    return _check("answers", faults, f"{len(texts)} answers to the test questions")


def _retention_log(bundle: Bundle, abilities: Sequence[JudgedRows]) -> Check:
    counts = logged_answers(bundle.archive.read(RETENTION_LOG).decode())
    faults, total = [], 0
    for one in abilities:
        label, rows = one.ability.label if one.ability else "", len(rows_of(bundle, one))
        for model in (BASE, bundle.claims.chosen_checkpoint):
            number = counts.get(f"{label}, {model}", 0)
            total += number
            faults += [] if number == rows else [f"{number} of {rows} questions of {label}, {model}"]
    return _check("retention log", faults, f"{total} answers")


def _accuracy(bundle: Bundle, target: JudgedRows, figures: list[Target]) -> Check:
    claims = bundle.claims
    before, after = (_scored(judged_answers(bundle, target, model)) for model in (BASE, claims.chosen_checkpoint))
    again = measure_target(target.task, before, after)
    figures.append(again)
    found = {"task": again.task, "metric": again.metric, "scorer": again.scorer, "rows": again.n}
    claimed = {"task": claims.task, "metric": claims.metric, "scorer": claims.scorer, "rows": claims.n}
    differing = [name for name in found if found[name] != claimed[name]]
    faults = [f"{name}: {claimed[name]!r} claimed, {found[name]!r} found" for name in differing]
    for name, value, said in (("base", again.base_value, claims.base_value), ("tuned", again.value, claims.value)):
        faults += [] if _equal(value, said) else [f"{name}: {said!r} claimed, {value!r} when judged again"]
    evidence = f"{again.metric} {again.base_value!r} -> {again.value!r} on {again.n} rows, judged again"
    return _check("accuracy", faults, evidence)


def _retention(bundle: Bundle, abilities: Sequence[JudgedRows], lines: list[RetentionMetric]) -> Check:
    claims = bundle.claims
    for one in abilities:
        if one.ability is not None:
            answers = [judged_answers(bundle, one, model) for model in (BASE, claims.chosen_checkpoint)]
            lines += measure_retention(one.task, one.ability, one.min_retained, *answers)
    found = {(line.task, line.metric): (line.base, line.tuned, line.is_gated, line.passed) for line in lines}
    said = {(line.task, line.metric): (line.base, line.tuned, line.gated, line.passed) for line in claims.retention}
    faults = [f"{task} {metric} is not claimed" for task, metric in found if (task, metric) not in said]
    for (task, metric), (base, tuned, gated, passed) in said.items():
        again = found.get((task, metric))
        if again is None:
            faults.append(f"{task} {metric} cannot be measured from the bundle")
        elif not (_equal(again[0], base) and _equal(again[1], tuned)) or again[2:] != (gated, passed):
            faults.append(f"{task} {metric}: {base!r} -> {tuned!r} claimed, {again[0]!r} -> {again[1]!r} judged again")
    return _check("retention", faults, f"{len(lines)} metrics, judged again")


def _score(claims: Claims, figures: Sequence[Target]) -> Check:
    if claims.rule is None or claims.score is None:
        return Check(name="score", passed=None, detail=f"{claims.metric} has no score of the contest")
    if not figures:
        return Check(name="score", passed=False, detail="the accuracy could not be judged again")
    [target] = figures
    value = score(claims.rule, claims.ratio, target.value / 100 if target.in_points else target.value)
    faults = [] if _equal(value, claims.score) else [f"{claims.score!r} claimed, {value!r} by {claims.rule}"]
    return _check("score", faults, f"{value!r} by {claims.rule}")


def _verdict(claims: Claims, figures: Sequence[Target], lines: Sequence[RetentionMetric]) -> Check:
    reasons = [f"{line.task} {line.metric} was not kept" for line in lines if line.is_gated and not line.passed]
    reasons += [] if gate_passed(lines) or reasons else ["retention was not measured"]
    reasons += [] if figures and figures[0].better else ["the target is not better than the base beyond chance"]
    if claims.valid:
        return _check("verdict", reasons, "valid, as claimed")
    # A run may also be invalid by a check of its own, which a bundle does not hold.
    return Check(name="verdict", passed=True, detail="; ".join(["claimed as not valid", *reasons]))


def _scorecard(bundle: Bundle) -> Check:
    card = Scorecard.model_validate_json(bundle.archive.read(SCORECARD))
    same = claims_of(card, bundle.claims.steps) == bundle.claims
    return _check("scorecard", [] if same else [f"{SCORECARD} and the manifest claim different figures"], "as claimed")


def rows_of(bundle: Bundle, one: JudgedRows) -> list[Example]:
    """Return the rows of a set."""
    return [from_record(orjson.loads(line)) for line in bundle.archive.read(one.rows).splitlines() if line.strip()]


def predictions_path(one: JudgedRows, model: str) -> str:
    """Return the member with the answers of a model to a set of rows."""
    return f"predictions/{one.folder}/{model}.jsonl"


def _stored(bundle: Bundle, one: JudgedRows, model: str) -> list[Prediction]:
    return read_predictions(_unpacked(bundle, predictions_path(one, model)))


def _unpacked(bundle: Bundle, path: str) -> Path:
    if path not in bundle.archive:
        raise DataError(path, "is missing", "the answers to all rows")
    target = bundle.folder / path
    if not target.exists():
        bundle.archive.extract(path, bundle.folder)
    return target


def judged_answers(bundle: Bundle, one: JudgedRows, model: str) -> list[Prediction]:
    """Return the answers of a model, judged again. Raises: DataError unless there is one to every row."""
    examples, path = rows_of(bundle, one), _unpacked(bundle, predictions_path(one, model))
    stored = read_predictions(path)
    judged = keep_predictions(one.task, examples, path, stored[0].facts if stored else None)
    if len(judged) != len(examples) or len(stored) != len(examples):
        fault = f"{len(stored)} answers, {len(judged)} of them to the {len(examples)} rows of {one.rows}"
        raise DataError(predictions_path(one, model), fault, "one answer to each row and its prompt")
    return [judged[index] for index in range(len(examples))]


def _scored(predictions: Sequence[Prediction]) -> list[ScoredExample]:
    return [ScoredExample(row.example_id, row.category, row.score) for row in predictions]


def _equal(a: float, b: float) -> bool:
    # Means are added up in another order where rows come back in another order.
    return isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def checked(name: str, check: Callable[[], Check]) -> Check:
    """Return the result of a check; content that cannot be read fails it.

    Raises: HostileArchiveError, as such a bundle is refused as a whole.
    """
    try:
        return check()
    except HostileArchiveError:
        raise
    except LotuneError as error:
        return Check(name=name, passed=False, detail=f"{error.where}: {error.found}")
    except (ValueError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        reason = str(error).splitlines()[0] if str(error) else ""
        return Check(name=name, passed=False, detail=f"cannot be read: {type(error).__name__} {reason}")


def _check(name: str, faults: Sequence[str], evidence: str) -> Check:
    shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
    return Check(name=name, passed=not faults, detail=shown or evidence)
