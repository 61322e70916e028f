"""Validation and samples of a model while it is pre-trained, and its best state so far.

Each validation is a line of metrics.jsonl, and its samples are lines of samples.jsonl. States are saved at the same
steps, after these lines are written, so that a resumed pre-training neither repeats nor misses one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from lotune.console import print_status
from lotune.data.collate import Batch, Collator, without_targets
from lotune.data.file_readers import truncate_text
from lotune.data.token_files import TokenFile
from lotune.data.tokenized import chunks
from lotune.record_files import append_record, filter_records, record_lines
from lotune.runs import METRICS_FILE
from lotune.train.settings import PretrainSettings

SAMPLES_FILE = "samples.jsonl"
"""File of a run with what its model wrote at each validation."""
BEST_FOLDER = "model-best"
"""Folder of the model with the lowest validation loss, in bfloat16, unless that is the last one."""
VALIDATIONS = 10
"""Validations of a pre-training by default."""
DEFAULT_PROMPTS, PROMPT_TOKENS = 3, 8
"""Validation blocks whose beginnings are the prompts of samples by default, and the tokens of a beginning."""
SAMPLE_BATCH_TOKENS = 8192
"""Tokens that the engine holds at once for samples."""
SHOWN_CHARACTERS = 100
"""Characters of a sample that are shown on its line."""


@dataclass(frozen=True)
class ValidationRecord:
    """The model after a step on the held-out blocks: loss in nats per scored token, perplexity, bits per byte."""

    step: int
    loss: float
    perplexity: float
    bits_per_byte: float


@dataclass(frozen=True)
class HeldOutBlocks:
    """The held-out blocks of a pre-training.

    `pad_token_id` is None if blocks are packed. Positions whose target is `unscored_id` are not scored.
    """

    rows: TokenFile
    tokenizer: Any
    pad_token_id: int | None
    unscored_id: int | None

    def measure(self, model: Any, step: int, remedy: str) -> ValidationRecord:
        """Return the figures of a model. Raises: SettingsError with the remedy if memory runs out."""
        from lotune.train.loop import evaluate_loss

        loss = evaluate_loss(model, self._batches(), remedy)
        scored, size = self._sizes
        # Bits per byte do not depend on the tokeniser. A scored end of a text costs bits, and has no bytes.
        return ValidationRecord(step, loss, math.exp(min(loss, 700.0)), loss / math.log(2) * scored / max(1, size))

    def _batches(self) -> Iterator[Batch]:
        collator = Collator(len(self.rows), 8192, self.pad_token_id or 0, packed=self.pad_token_id is None)
        for indices in chunks(range(len(self.rows)), 512):
            batches = collator.batches(self.rows[index] for index in indices)
            yield from (without_targets(batch, self.unscored_id) for batch in batches)

    @cached_property
    def _sizes(self) -> tuple[int, int]:
        """Return the number of scored tokens, and of the bytes of their texts."""
        scored = [
            row.token_ids[max(1, row.completion_start) :] for row in map(self.rows.__getitem__, range(len(self.rows)))
        ]
        texts = self.tokenizer.batch_decode(scored, skip_special_tokens=True)
        unscored = 0 if self.unscored_id is None else sum(ids.count(self.unscored_id) for ids in scored)
        return self.rows.supervised() - unscored, sum(len(text.encode()) for text in texts)


@dataclass
class PretrainingWatch:
    """What a pre-training has shown so far: its validations, in the order of their steps."""

    folder: Path
    settings: PretrainSettings
    held_out: HeldOutBlocks
    seed: int
    remedy: str
    records: list[ValidationRecord] = field(default_factory=list)

    def resume(self, step: int) -> None:
        """Take over the validations up to a step; forget samples, and a best model, of later steps."""
        filter_records(self.folder / SAMPLES_FILE, lambda line: line["step"] <= step)
        path = self.folder / METRICS_FILE
        lines = record_lines(path.read_bytes()) if path.exists() else ()
        found = (json.loads(line).get("validation") for _, line in lines)
        self.records = [ValidationRecord(**record) for record in found if record is not None]
        if not self.records:
            shutil.rmtree(self.folder / BEST_FOLDER, ignore_errors=True)

    def validate(self, model: Any, step: int, *, leads: bool, in_shards: bool) -> None:
        """Measure a model after a step; the process that leads also logs it, samples and keeps the best.

        With sharded weights, all processes call it, and there are no samples.
        """
        record = self.held_out.measure(model, step, self.remedy)
        self.records.append(record)
        if not leads:
            return
        print_status(
            f"step {step}: validation loss {record.loss:.4f}, perplexity {record.perplexity:.2f}, "
            f"{record.bits_per_byte:.3f} bits per byte"
        )
        append_record(self.folder / METRICS_FILE, {"validation": asdict(record)})
        if not in_shards:
            self._sample(model, step)
            self._keep_best(model)

    @property
    def best(self) -> ValidationRecord:
        """The validation with the lowest loss, the first of equal ones."""
        return min(self.records, key=lambda record: record.loss)

    @property
    def has_ended(self) -> bool:
        """Whether the last `patience` validations brought no lower loss."""
        patience = self.settings.patience
        if patience is None or not self.records:
            return False
        return len(self.records) - 1 - self.records.index(self.best) >= patience

    def _keep_best(self, model: Any) -> None:
        import torch

        from lotune.model.checkpoints import save_model

        if self.best is self.records[-1]:
            save_model(model, self.held_out.tokenizer, self.folder / BEST_FOLDER, torch.bfloat16)

    def _sample(self, model: Any, step: int) -> None:
        from lotune.generate.engine import generate_completions
        from lotune.generate.requests import Request
        from lotune.generate.sampling import Sampling
        from lotune.model.loading import context_length

        if not self.settings.sample_tokens:
            return
        context, temperature = context_length(model), self.settings.sample_temperature
        prompts = [ids[: context - 1] for ids in self._prompts]
        # A seed for each: with equal random numbers, a young model writes the same text after all prompts.
        requests = [
            Request(
                ids,
                min(self.settings.sample_tokens, context - len(ids)),
                sampling=Sampling(temperature, seed=self.seed + number),
            )
            for number, ids in enumerate(prompts)
        ]
        model.eval()
        answers = generate_completions(model, self.held_out.tokenizer, requests, batch_tokens=SAMPLE_BATCH_TOKENS)
        for ids, answer in zip(prompts, answers, strict=True):
            prompt = self.held_out.tokenizer.decode(ids, skip_special_tokens=True)
            append_record(self.folder / SAMPLES_FILE, {"step": step, "prompt": prompt, "continuation": answer.text})
            print_status(f"  {prompt}⟦{truncate_text(answer.text, SHOWN_CHARACTERS)}⟧")

    @cached_property
    def _prompts(self) -> list[tuple[int, ...]]:
        tokenizer, rows = self.held_out.tokenizer, self.held_out.rows
        if self.settings.sample_prompts:
            from lotune.data.tokenized import encode_text

            return [tuple(encode_text(tokenizer, text, first=True)) for text in self.settings.sample_prompts]
        return [rows[index].token_ids[:PROMPT_TOKENS] for index in range(min(DEFAULT_PROMPTS, len(rows)))]


def unscored_id(settings: PretrainSettings, tokenizer: Any) -> int | None:
    """Return the id of the end-of-text token if it is not in the loss, else None."""
    is_scored = settings.corpus is None if settings.score_eot == "auto" else settings.score_eot == "on"
    return None if is_scored else int(tokenizer.eos_token_id)


def validation_steps(steps: int, every: int | Literal["auto"]) -> Sequence[int]:
    """Return the steps of a pre-training after which it is validated; the last one always is.

    >>> list(validation_steps(10, 4)), list(validation_steps(25, "auto"))[:3], list(validation_steps(10, 0))
    ([4, 8, 10], [2, 4, 6], [10])
    """
    interval = max(1, steps // VALIDATIONS) if every == "auto" else every
    due = range(interval, steps, interval) if interval else range(0)
    return [*due, steps]
