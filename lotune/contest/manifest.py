"""The manifest of a bundle: its members with their digests, and what its makers claim."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lotune.errors import DataError
from lotune.evaluate.last_training import LastTraining, TrainingName, last_training
from lotune.evaluate.scorecard import Check, Scorecard
from lotune.evaluate.scorecard_claims import spacing_claim

MANIFEST = "manifest.json"
FORMAT = 1
"""Number of the layout of bundles; a reader refuses a higher one."""
CONTEST_CHECKPOINTS = 5
"""The contest's number of checkpoints."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)


class Member(_Record):
    """A file with its size in bytes and its sha256, in hexadecimal."""

    path: str
    bytes: int
    sha256: str


Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]{0,99}$")]
"""Name of a checkpoint, which is a folder."""


class BundledCheckpoint(_Record):
    """A checkpoint of a bundle. `trainable` counts the parameters in its adapter's file."""

    name: Name
    step: int
    trainable: int
    merged: Literal["included", "left out", "none"]
    """Whether its merged model is in the bundle, was left out (its digests are in `left_out`), or was never made."""


class ClaimedMetric(_Record):
    """A retained metric before and after tuning, 0 to 100 or bits per byte."""

    task: str
    metric: str
    base: float
    tuned: float
    gated: bool
    passed: bool


class Claims(_Record):
    """The figures that a team claims; accuracy and ratio are 0 to 1."""

    task: str
    metric: str
    scorer: str
    n: int
    value: float
    base_value: float
    retention: tuple[ClaimedMetric, ...]
    chosen_checkpoint: Name
    trainable: int
    base_total: int
    """The base's own number of parameters."""
    convention: str
    """Convention of the ratio's divisor."""
    ratio: float
    rule: str | None
    score: float | None
    valid: bool
    reasons: tuple[str, ...] = ()
    """Reasons why the result is not valid."""
    training: TrainingName = "tuning"
    """The training that the checkpoints are of."""
    steps: int
    """Steps of that training."""
    spacing: Check
    """Whether there are five checkpoints, evenly spaced over the training."""


class Manifest(_Record):
    """The content of manifest.json; members and files left out are sorted by path."""

    format: int = FORMAT
    team: str
    link: str | None = None
    lotune: str | None
    git_revision: str | None
    claims: Claims
    checkpoints: tuple[BundledCheckpoint, ...]
    members: tuple[Member, ...]
    left_out: tuple[Member, ...] = ()
    """Files of merged models that are not in the bundle."""


def training_of(card: Scorecard, steps: int) -> LastTraining:
    """Return the training that is handed in, of a run that was tuned in so many steps, and perhaps repaired."""
    points = ((point.name, point.step) for point in card.checkpoints)
    return last_training(points, card.chosen_checkpoint, steps, card.repair.steps if card.repair else None)


def claims_of(card: Scorecard, training: LastTraining) -> Claims:
    """Return what a scorecard claims of the training that is handed in."""
    target, parameters = card.target, card.parameters
    return Claims(
        task=target.task, metric=target.metric, scorer=target.scorer, n=target.n,
        value=target.value, base_value=target.base_value,
        retention=tuple(
            ClaimedMetric(
                task=line.task, metric=line.metric, base=line.base, tuned=line.tuned,
                gated=line.is_gated, passed=line.passed,
            )
            for line in card.retention
        ),
        chosen_checkpoint=card.chosen_checkpoint, trainable=parameters.trainable, base_total=parameters.base_total,
        convention=parameters.convention, ratio=parameters.ratio,
        rule=card.score.rule if card.score else None, score=card.score.value if card.score else None,
        valid=card.valid, reasons=card.reasons, training=training.name, steps=training.steps,
        spacing=five_evenly_spaced(list(training.checkpoints), training.steps, training.name),
    )  # fmt: skip


def five_evenly_spaced(found: Sequence[int], steps: int, training: TrainingName = "tuning") -> Check:
    """Return the check of the contest's rule: five checkpoints, the i-th after round(i · steps / 5) steps.

    >>> five_evenly_spaced([2, 4, 6, 8, 10], 10).passed, five_evenly_spaced([2, 4, 6, 9, 10], 10).passed
    (True, False)
    """
    spacing = spacing_claim(found, steps, training)
    if len(found) == CONTEST_CHECKPOINTS:
        return spacing
    fault = f"{len(found)} checkpoints, the contest asks for {CONTEST_CHECKPOINTS}; {spacing.detail}"
    return Check(name=spacing.name, passed=False, detail=fault)


def to_canonical_json(manifest: Manifest) -> bytes:
    """Return a manifest as JSON with sorted keys, the same bytes for the same content."""
    record = manifest.model_dump(mode="json")
    return orjson.dumps(record, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS) + b"\n"


def read_manifest(content: bytes, where: str) -> Manifest:
    """Return the manifest in manifest.json. Raises: DataError if it is damaged or of a newer layout."""
    try:
        record: Any = orjson.loads(content)
        if isinstance(record, dict) and isinstance(record.get("format"), int) and record["format"] > FORMAT:
            fault = f"has format {record['format']}, this lotune reads {FORMAT}"
            raise DataError(f"{where}: {MANIFEST}", fault, remedy="update lotune")
        return Manifest.model_validate(record)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: {MANIFEST}", f"is not JSON: {error}", "a manifest of lotune bundle") from None
    except ValidationError as error:
        first = error.errors()[0]
        fault = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise DataError(f"{where}: {MANIFEST}", fault, "a manifest of lotune bundle") from None
