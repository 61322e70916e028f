"""The hand-in of the contest: which files of a run a bundle holds, and the texts that only a bundle has."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from lotune.contest.archive_reader import BINARIES, TEXTS
from lotune.contest.archive_writer import Source, file_chunks
from lotune.contest.logs import RETENTION_LOG, TRAINING_LOG
from lotune.contest.redaction import Private, Redactor
from lotune.errors import RunError
from lotune.evaluate.last_training import LastTraining
from lotune.evaluate.predict import Prediction
from lotune.evaluate.scorecard import Scorecard
from lotune.record_files import encode_records
from lotune.report.markdown import escape_markdown, table_lines
from lotune.report.sections import Table, checkpoints_table, retention_table
from lotune.report.terminal import format_interval, format_metric, percent, verdict_sentence
from lotune.runs import METRICS_FILE
from lotune.tasks.task import Task

RECIPE, SCORECARD, ANSWERS, SELF_TEST = "recipe.yaml", "scorecard.json", "answers.jsonl", "self-test.md"
TEXTS_OF_RUN = (
    RECIPE, "environment.json", "auto_settings.json", "dtypes.json", "training.json", "tuning.json", "merging.json",
    METRICS_FILE, "data/counts.json", TRAINING_LOG, RETENTION_LOG, SCORECARD,
)  # fmt: skip
"""Files of a run that a bundle holds, if the run has them; those named by `REQUIRED` are in every bundle."""
REQUIRED = (RECIPE, "environment.json", "training.json", METRICS_FILE, TRAINING_LOG, RETENTION_LOG, SCORECARD)
ROWS = ("data/", "predictions/", ANSWERS, RETENTION_LOG, "report.", "README.md", "method.md")
"""Beginnings of the paths of files with rows or the team's name: a user's name may be an ordinary word in them."""
WEIGHT_NAMES = ("adapter", "merged")
"""Folders of a checkpoint that a bundle holds."""


@dataclass(frozen=True)
class CheckpointFolder:
    """A checkpoint of a run and the paths of its files, relative to the run."""

    name: str
    step: int
    adapter: tuple[str, ...]
    merged: tuple[str, ...]


def checkpoint_folders(folder: Path, training: LastTraining) -> list[CheckpointFolder]:
    """Return the checkpoints of a training in their order.

    Raises: RunError if the adapter of one is missing, or a folder holds a file of a kind that
    readers of bundles refuse.
    """
    checkpoints = []
    for step, name in training.checkpoints.items():
        parts = {part: tuple(_files(folder, f"checkpoints/{name}/{part}")) for part in WEIGHT_NAMES}
        if not parts["adapter"]:
            found, remedy = f"checkpoints/{name}/adapter is missing", "tune again, and delete no checkpoint"
            raise RunError(str(folder), found, "the adapter of each checkpoint", remedy)
        for path in (*parts["adapter"], *parts["merged"]):
            if Path(path).suffix not in TEXTS | BINARIES:
                fault = "is of a kind that bundles do not hold, as it might execute code"
                raise RunError(str(folder / path), fault, "weights in safetensors, and texts", "remove it")
        checkpoints.append(CheckpointFolder(name, step, parts["adapter"], parts["merged"]))
    return checkpoints


def _files(folder: Path, below: str) -> Iterator[str]:
    for path in sorted((folder / below).rglob("*")):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise RunError(str(path), "is a link or a special file", "plain files", "replace it by what it points to")
        if path.is_file() and not path.name.startswith("."):
            yield path.relative_to(folder).as_posix()


def run_sources(folder: Path, private: Private) -> list[Source]:
    """Return the members that a bundle takes from a run besides its weights: texts, rows and answers.

    Raises: RunError if a required file is missing.
    """
    texts = [name for name in TEXTS_OF_RUN if (folder / name).is_file()]
    if missing := [name for name in REQUIRED if name not in texts]:
        raise RunError(str(folder), f"lacks {', '.join(missing)}", "a finished run", "lotune report RUN")
    rows = [path for path in _files(folder, "data") if _is_test_set(path)]
    answers = [path for path in _files(folder, "predictions") if _is_predictions(path)]
    return [_text_of_run(folder, path, private) for path in (*texts, *rows, *answers)]


def weight_sources(folder: Path, private: Private, paths: Iterable[str]) -> list[Source]:
    """Return the files of checkpoints as members: weights as they are, texts without private parts.

    Raises: RunError if the metadata of weights hold private texts; DataError if they hold a secret.
    """
    sources = []
    for path in paths:
        if Path(path).suffix == ".safetensors":
            _check_metadata(folder / path, private)
        is_text = Path(path).suffix in TEXTS
        sources.append(_text_of_run(folder, path, private) if is_text else _file(folder, path))
    return sources


def _check_metadata(path: Path, private: Private) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="numpy") as file:
            metadata = json.dumps(file.metadata() or {}, ensure_ascii=False)
    except SafetensorError as error:
        raise RunError(str(path), f"is damaged: {error}", "weights in safetensors", "tune again") from None
    if Redactor(private, str(path), about_the_machine=True).line(metadata) != metadata:
        # A change of weights would change their digest, so they are not rewritten.
        raise RunError(str(path), "its metadata name a path of this machine", "metadata without paths", "save it again")


def _is_test_set(path: str) -> bool:
    name = path.removeprefix("data/")
    watched = name.startswith("retention_validation")
    return name.endswith(".jsonl") and not watched and (name == "test.jsonl" or name.startswith("retention"))


def _is_predictions(path: str) -> bool:
    return path.endswith(".jsonl") and not path.startswith("predictions/alone/")


def _file(folder: Path, path: str) -> Source:
    return Source(path, lambda: file_chunks(folder / path))


def _text_of_run(folder: Path, path: str, private: Private) -> Source:
    return text_source(path, lambda: _lines(folder / path), private)


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        yield from file


def text_source(path: str, lines: Callable[[], Iterable[bytes]], private: Private) -> Source:
    """Return a member of lines in UTF-8, without private texts."""

    def chunks() -> Iterator[bytes]:
        redactor = Redactor(private, path, about_the_machine=not path.startswith(ROWS))
        for line in lines():
            yield redactor.line(line.decode("utf-8", "surrogateescape")).encode("utf-8", "surrogateescape")

    return Source(path, chunks)


def written_sources(texts: Mapping[str, str | bytes], private: Private) -> list[Source]:
    """Return members whose content exists in memory only."""
    contents = {path: text.encode() if isinstance(text, str) else text for path, text in texts.items()}
    return [_written(path, content, private) for path, content in contents.items()]


def _written(path: str, content: bytes, private: Private) -> Source:
    return text_source(path, lambda: content.splitlines(keepends=True), private)


def answers_to_test(predictions: Iterable[Prediction]) -> bytes:
    """Return the answers to the test questions, one JSON object a line with the id of its question."""
    return encode_records({"id": prediction.example_id, "answer": prediction.text} for prediction in predictions)


def self_test(card: Scorecard) -> str:
    """Return the results of the self-test as Markdown: accuracy, ratio, score, checkpoints, retention."""
    target, parameters = card.target, card.parameters
    score = "–" if card.score is None else f"{card.score.value:.9f} (rule {card.score.rule})"
    figures = (
        (f"{target.task}: {target.metric} of the base", format_metric(target.base_value, target)),
        (f"{target.task}: {target.metric} after tuning", format_metric(target.value, target)),
        ("95 % interval", format_interval(target.interval, target)),
        ("rows", f"{target.n} (+{target.unjudgeable} unjudgeable)"),
        ("parameters trained", f"{parameters.trainable:,} of {parameters.total:,} ({parameters.convention})"),
        ("ratio", f"{parameters.ratio!r} ({percent(parameters.ratio, 4)})"),
        ("score", score),
    )
    lines = ["# Self-test", "", escape_markdown(verdict_sentence(card)), ""]
    lines += table_lines(Table(("figure", "value"), figures))
    lines += ["## Checkpoints", "", *table_lines(checkpoints_table(card))]
    lines += ["## Retention", "", *table_lines(retention_table(card.retention))]
    return "\n".join([*lines, "The pictures of these figures are in `pictures/`."]) + "\n"


def method_text(team: str, method: str, hyper_parameters: Iterable[tuple[str, str]], card: Scorecard) -> str:
    """Return what was trained, and with which settings, as Markdown."""
    lines = [f"# Method of {escape_markdown(team)}", ""]
    trained = percent(card.parameters.ratio, 4)
    lines += [
        f"The adapter method is {escape_markdown(method)}. {card.parameters.trainable:,} parameters were trained, "
        f"{trained} of those of {escape_markdown(card.base)}; the weights of the base stayed as they are.",
        "",
        "The settings that differ from the defaults of lotune are in the table. `recipe.yaml` holds all settings.",
        "",
        *table_lines(Table(("setting", "value"), tuple(hyper_parameters))),
    ]
    notes = [f"- {escape_markdown(note)}" for note in card.notes]
    return "\n".join([*lines, *(["## Notes", "", *notes] if notes else [])]) + "\n"


def inference_text(task: Task, card: Scorecard, predictions: Iterable[Prediction]) -> str:
    """Return how answers were generated, as Markdown: what differs from a plain call of the model."""
    facts = next((prediction.facts for prediction in predictions if prediction.facts), None)
    rows = [
        ("minimum of new tokens", f"{task.min_new_tokens}"),
        ("maximum of new tokens", f"{task.max_new_tokens}"),
        ("texts that end an answer", ", ".join(map(repr, task.stop)) or "none, only end-of-text"),
        ("answers are judged by", task.scorer or card.target.metric),
    ]
    if facts is not None:
        rows = [("prompt template", facts.template), ("protocol", facts.protocol), *rows]
    strength = card.strength
    if strength is not None:
        rows.append(("strength of the adapter", f"{strength.chosen}"))
    unchanged = "Weights and architecture are those of the checkpoint; no code of the model was changed."
    lines = ["# Inference", "", unchanged, "", *table_lines(Table(("part", "value"), tuple(rows)))]
    return "\n".join(lines) + "\n"


CONTENTS = """# Hand-in of {team}

| what | where |
| :-- | :-- |
| method | `method.md` |
| hyper-parameters | `recipe.yaml`, complete; `auto_settings.json` for those that were found |
| code | lotune {version}, revision {revision}{link} |
| checkpoints | `checkpoints/`, each with its adapter and, where included, its merged model |
| training log | `training-log.txt`, from `metrics.jsonl`; YAML: `recipe.yaml` |
| retention log | `retention-log.txt`; answers: `predictions/` |
| self-test | `self-test.md`, `scorecard.json`, `pictures/` |
| answers to the test questions | `answers.jsonl` |
| run environment | `environment.json` |
| changes of the inference | `inference.md` |
| report | `report.html`, `report.md` |

`manifest.json` lists every file with its sha256, and the claimed figures. `lotune bundle --check` verifies both.
"""


def contents_text(team: str, version: str | None, revision: str | None, link: str | None) -> str:
    """Return the table of contents of a bundle as Markdown."""
    shown = {"version": version or "of unknown version", "revision": revision or "unknown"}
    address = f", {escape_markdown(link)}" if link else ""
    return CONTENTS.format(team=escape_markdown(team), link=address, **shown)
