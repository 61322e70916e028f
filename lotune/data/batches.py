"""From examples to batches: prompt and answer to tokens and mask, micro-batches, packed lines.

(B, T): rows of a batch × tokens of its longest row. `targets` are shifted here and nowhere else: position t holds the
token that follows position t, or UNSCORED.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from lotune.data.shares import WHOLE, Share
from lotune.errors import DataError

if TYPE_CHECKING:
    import torch

    from lotune.data.examples import Example
    from lotune.data.token_files import TokenFile

UNSCORED = -100
"""Target of a position that is not scored."""
NO_ROW = -1
"""Row id of padding."""
EVERY_ROW = -2
"""Row id of tokens that all rows of a packed line begin with."""
LEAST_SHARED = 8
"""Tokens that the rows of a line have to begin with alike before these are laid down once."""

Span = tuple[int, int]
"""Places of a stretch of tokens: its first one, and the one after its last."""
Encode = Callable[[str, bool], Sequence[int]]
"""Gives the token ids of a text; the flag says whether it begins a row, and so gets what the tokeniser puts first."""


@dataclass(frozen=True)
class EncodedRow:
    """Tokens of one row; those from `answer_start` on, the last answer, are trained on, and those of `earlier`.

    `earlier` holds start and end of each earlier answer of a conversation that is trained on.
    """

    id: str
    tokens: tuple[int, ...]
    answer_start: int
    earlier: tuple[Span, ...] = ()

    @property
    def spans(self) -> tuple[Span, ...]:
        """Start and end of everything that is trained on, in order.

        >>> EncodedRow("1", (7, 7, 7, 0, 8, 8, 0), 5, ((1, 4),)).spans
        ((1, 4), (5, 7))
        """
        return (*self.earlier, (self.answer_start, len(self.tokens)))


@dataclass(frozen=True)
class Batch:
    """Tokens, targets, positions and row ids, all (B, T) int64; row ids tell rows packed into one line apart.

    A packed line may begin with `shared` tokens that all its rows begin with and that are computed once.
    """

    input_ids: torch.Tensor
    targets: torch.Tensor
    positions: torch.Tensor
    row_ids: torch.Tensor
    shared: int = 0

    @property
    def tokens(self) -> int:
        """Tokens of all rows, padding left out; what they share is counted for each."""
        more = self.shared * (int(self.row_ids[0, -1]) + 1) if self.shared else 0
        return int((self.row_ids >= 0).sum()) + more

    @property
    def supervised(self) -> int:
        """Number of scored positions."""
        return int((self.targets != UNSCORED).sum())

    @property
    def row_lengths(self) -> torch.Tensor | None:
        """Of a packed line: the tokens that all rows share, then those of each by itself, (1 + rows,) int64.

        None for a batch with a row a line.
        """
        if len(self.row_ids) > 1 or int(self.row_ids[0, -1]) <= 0:
            return None
        counts: torch.Tensor = self.row_ids[0, self.shared :].unique_consecutive(return_counts=True)[1]
        return counts.new_tensor([self.shared, *counts.tolist()])

    def rows(self) -> Iterator[list[int]]:
        """Yield the tokens that each row reads, those that it shares included."""
        for line, ids in zip(self.input_ids, self.row_ids, strict=True):
            for number in range(int(ids.max()) + 1):
                yield [*line[: self.shared].tolist(), *line[self.shared :][ids[self.shared :] == number].tolist()]


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Items in lists of `size`, the last one of what is left.

    >>> list(chunks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk


class PromptTooLongError(DataError):
    """A prompt has more tokens than there is room for, and no passage that may be cut."""


def encode_prompt(tokenizer: Any, example: Example, budget: int, *, truncate: bool = False) -> tuple[list[int], bool]:
    """Token ids of a prompt within `budget` tokens, and whether it had to be cut.

    Begin-of-text is added where the tokeniser adds one; end-of-text never. A passage is cut at its end, so that the
    question stays. Each earlier answer of a conversation ends with end-of-text, as in training. With `truncate`, a
    prompt that is too long without a passage to cut loses its middle: its beginning and its end stay.

    Raises: PromptTooLongError where the prompt is too long, nothing of it may be cut, and `truncate` is not given.
    """
    ids, _ = _encode_prompt(partial(encode_text, tokenizer), example, tokenizer.eos_token_id)
    if len(ids) <= budget:
        return ids, False
    found = f"the prompt has {len(ids)} tokens"
    if example.prompt_parts is not None:
        head, middle, tail = example.prompt_parts
        head_ids = encode_text(tokenizer, head, first=True)
        tail_ids = encode_text(tokenizer, tail)
        room = budget - len(head_ids) - len(tail_ids)
        if room >= 1:
            return head_ids + encode_text(tokenizer, middle)[:room] + tail_ids, True
        ids, found = head_ids + tail_ids, "the question alone is longer than the context"
    if truncate and budget >= 1:
        return _without_middle(ids, budget), True
    raise PromptTooLongError(
        f"row {example.id}",
        found,
        f"{budget} tokens at most",
        "shorten it, or cut it with evaluate.on_too_long=truncate",
    )


def _without_middle(ids: list[int], budget: int) -> list[int]:
    """The first and the last of the ids, as many of each, `budget` (1 or more) together.

    >>> _without_middle([1, 2, 3, 4, 5], 3), _without_middle([1, 2, 3, 4, 5], 2)
    ([1, 2, 5], [1, 5])
    """
    end = budget // 2
    return ids[: budget - end] + ids[len(ids) - end :]


def encode_row(tokenizer: Any, example: Example) -> EncodedRow:
    """Tokens of prompt, answer and end-of-text; of the prompt only earlier answers can be scored.

    Prompt and answer are encoded apart, so that training sees the boundary that generation sees.
    """
    return row_of(partial(encode_text, tokenizer), example, tokenizer.eos_token_id)


def row_of(encode: Encode, example: Example, end: int) -> EncodedRow:
    """The same with another way to encode a text, and `end` for the end-of-text token; texts are asked for in order."""
    prompt, earlier = _encode_prompt(encode, example, end)
    answer = encode(example.target, False)
    return EncodedRow(example.id, (*prompt, *answer, end), len(prompt), earlier)


def _encode_prompt(encode: Encode, example: Example, end: int) -> tuple[list[int], tuple[Span, ...]]:
    """Token ids of a prompt, and the spans of its earlier answers, with their end-of-text, that are scored."""
    ids: list[int] = []
    spans = []
    for turn in example.turns:
        ids += encode(turn.prompt, not ids)
        start = len(ids)
        ids += [*encode(turn.answer, False), end]
        if turn.scored:
            spans.append((start, len(ids)))
    ids += encode(example.question, not ids)
    return ids, tuple(spans)


def marked(tokenizer: Any, row: EncodedRow) -> str:
    """The text of a row as the model sees it, what is trained on between ⟦ and ⟧."""
    text, end = "", 0
    for start, stop in row.spans:
        text += f"{tokenizer.decode(row.tokens[end:start])}⟦{tokenizer.decode(row.tokens[start:stop])}⟧"
        end = stop
    return text


def check_supervision(row: EncodedRow, eos_token_id: int) -> None:
    """Refuse a row that would teach nothing, or never to stop.

    Raises: DataError naming the row.
    """
    if any(end - start <= 1 for start, end in row.spans):
        raise DataError(
            f"row {row.id}", "no token of its answer is trained on", "an answer after the prompt", "give it one"
        )
    if any(row.tokens[end - 1] != eos_token_id for _, end in row.spans):
        raise DataError(
            f"row {row.id}", "its answer does not end with end-of-text", "a scored end-of-text", "do not cut it"
        )


def encode_text(tokenizer: Any, text: str, first: bool = False) -> list[int]:
    """Token ids of a text; what reads like a special token in it is text, or a row could end its own answer."""
    ids = list(tokenizer(text, add_special_tokens=first, split_special_tokens=True, verbose=False)["input_ids"])
    return without_end(ids, tokenizer.eos_token_id) if first else ids


def without_end(ids: list[int], end: int) -> list[int]:
    """The ids without an end-of-text that some tokenisers put after every text."""
    return ids[:-1] if ids and ids[-1] == end else ids


def pad(rows: Sequence[EncodedRow], pad_token_id: int) -> Batch:
    """One row a line, padded on the right to the longest: (B, T).

    No mask is needed: with causal attention what stands to the right of a token never reaches it.
    """
    import torch

    width = max(len(row.tokens) for row in rows) - 1
    tokens = np.full((len(rows), width + 1), pad_token_id, dtype=np.int64)
    scored = np.zeros((len(rows), width + 1), dtype=bool)
    row_ids = np.full((len(rows), width), NO_ROW, dtype=np.int64)
    for line, row in enumerate(rows):
        tokens[line, : len(row.tokens)] = row.tokens
        for first, last in row.spans:
            scored[line, first:last] = True
        row_ids[line, : len(row.tokens)] = 0
    targets = np.where(scored, tokens, UNSCORED)[:, 1:]
    positions = np.broadcast_to(np.arange(width), (len(rows), width))
    arrays = (tokens[:, :-1], targets, positions, row_ids)
    ids, aims, places, names = (torch.from_numpy(array.copy()) for array in arrays)
    return Batch(ids, aims, places, names)


def packed(rows: Sequence[EncodedRow]) -> Batch:
    """Whole rows one after the other in one line (1, T), without padding; positions begin anew with each row.

    What all rows begin with and none is scored on, such as the preamble of a template, stands at the start of the line
    once. Each row leaves its last token out, as nothing follows it.
    """
    import torch

    shared = _shared(rows)
    lengths = [shared, *(len(row.tokens) - 1 - shared for row in rows)]
    parts = [rows[0].tokens[:shared], *(row.tokens[shared:-1] for row in rows)]
    tokens = np.fromiter(chain.from_iterable(parts), dtype=np.int64, count=sum(lengths))
    targets = np.full(len(tokens), UNSCORED, dtype=np.int64)
    start = 0
    for row, length in zip(rows, lengths[1:], strict=True):
        for first, last in row.spans:
            first = max(first, 1)
            targets[start + first - 1 : start + last - 1] = row.tokens[first:last]
        start += length
    positions = np.concatenate([np.arange(shared), *(shared + np.arange(length) for length in lengths[1:])])
    row_ids = np.repeat([EVERY_ROW, *range(len(rows))], lengths)
    ids, aims, places, names = (torch.from_numpy(array[None]) for array in (tokens, targets, positions, row_ids))
    return Batch(ids, aims, places, names, shared)


def _shared(rows: Sequence[EncodedRow]) -> int:
    """How many tokens all rows begin with before any is scored; 0 where that is not worth it."""
    if len(rows) < 2:
        return 0
    longest = max(0, min(row.spans[0][0] for row in rows) - 1)
    head, last = (row.tokens[:longest] for row in (min(rows, key=_tokens), max(rows, key=_tokens)))
    found = next((place for place, (one, other) in enumerate(zip(head, last, strict=True)) if one != other), longest)
    return found if found >= LEAST_SHARED else 0


def _tokens(row: EncodedRow) -> tuple[int, ...]:
    return row.tokens


def epoch_order(rows: int, seed: int, epoch: int) -> list[int]:
    """The order of the rows in one epoch, the same on every machine.

    >>> epoch_order(4, seed=1, epoch=0) == epoch_order(4, seed=1, epoch=0)
    True
    """
    order = list(range(rows))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


MOST_PADDING = 768
"""Tokens of padding that a micro-batch may have; another forward pass costs about as much as so many tokens."""


@dataclass(frozen=True)
class Layout:
    """How rows become micro-batches: in packed lines or padded, `batch_rows` and `batch_tokens` at most in each.

    A row that is longer than `batch_tokens` is alone.
    """

    batch_rows: int
    batch_tokens: int
    pad_token_id: int
    packed: bool

    def batches(self, rows: Iterable[EncodedRow]) -> list[Batch]:
        """The micro-batches of some rows, those of similar length together."""
        return [packed(group) if self.packed else pad(group, self.pad_token_id) for group in self._groups(rows)]

    def _groups(self, rows: Iterable[EncodedRow]) -> Iterator[list[EncodedRow]]:
        group: list[EncodedRow] = []
        for row in sorted(rows, key=lambda row: len(row.tokens)):
            if group and (len(group) == self.batch_rows or not self._fits(group, row)):
                yield group
                group = []
            group.append(row)
        if group:
            yield group

    def _fits(self, group: Sequence[EncodedRow], longest: EncodedRow) -> bool:
        lengths = [len(row.tokens) - 1 for row in (*group, longest)]
        if self.packed:
            return sum(lengths) <= self.batch_tokens
        padding = len(lengths) * lengths[-1] - sum(lengths)
        return len(lengths) * lengths[-1] <= self.batch_tokens and padding <= MOST_PADDING


def tuning_batches(
    rows: TokenFile,
    layout: Layout,
    *,
    step_rows: int,
    steps: int,
    seed: int,
    first_step: int = 1,
    share: Share = WHOLE,
) -> Iterator[list[Batch]]:
    """The micro-batches of each step from `first_step` to `steps`, or of one process's share of its rows.

    Epochs follow one another without a remainder: every row is drawn once before any is drawn again.
    """
    drawn, lengths = _drawn_by_steps(len(rows), step_rows, seed, first_step), rows.lengths()
    for places in islice(drawn, steps + 1 - first_step):
        yield layout.batches(rows[place] for place in share.of(places, lengths[places].tolist()))


def rows_of_step(rows: int, step_rows: int, seed: int, step: int) -> list[int]:
    """The places of the rows that `tuning_batches` draws for a step (from 1).

    >>> sorted(rows_of_step(4, 2, 7, 1) + rows_of_step(4, 2, 7, 2))
    [0, 1, 2, 3]
    """
    return next(_drawn_by_steps(rows, step_rows, seed, step))


Draw = Literal["traversal", "random"]
"""How pre-training comes by its rows: every one once an epoch, or each step's by chance."""


def pretraining_batches(
    rows: TokenFile,
    *,
    batch_tokens: int,
    steps: int,
    seed: int,
    draw: Draw = "traversal",
    first_step: int = 1,
    share: Share = WHOLE,
    pad_token_id: int | None = None,
    pass_tokens: int | None = None,
) -> Iterator[list[Batch]]:
    """For each step from `first_step` to `steps`, one line of packed rows, as many as `batch_tokens` has room for.

    In padded lines where `pad_token_id` is given, in several where `pass_tokens` is less. Of a process's share of them
    where it is not alone: nothing where there are fewer rows than processes.
    """
    pass_tokens = min(pass_tokens or batch_tokens, batch_tokens)
    lengths = rows.lengths()
    drawn = islice(_fitting(_drawn(len(rows), seed, draw), lengths, batch_tokens), first_step - 1, steps)
    for places in drawn:
        own = share.of(places, lengths[places].tolist())
        if pad_token_id is None:
            yield [packed([rows[place] for place in line]) for line in _fitting(iter(own), lengths, pass_tokens)]
        else:
            layout = Layout(len(places), pass_tokens, pad_token_id, packed=False)
            yield layout.batches(rows[place] for place in own)


def traversal_steps(
    rows: TokenFile, *, batch_tokens: int, seed: int, draw: Draw = "traversal", epochs: float = 1.0
) -> int:
    """The steps in which `pretraining_batches` goes through as many rows as there are, `epochs` times; one at least."""
    wanted, drawn = max(1, round(epochs * len(rows))), _drawn(len(rows), seed, draw)
    return sum(1 for _ in _fitting(islice(drawn, wanted), rows.lengths(), batch_tokens))


def documents_of_step(
    rows: TokenFile, *, batch_tokens: int, seed: int, step: int, draw: Draw = "traversal"
) -> list[int]:
    """The places of the rows that `pretraining_batches` draws for a step (from 1)."""
    drawn = _fitting(_drawn(len(rows), seed, draw), rows.lengths(), batch_tokens)
    return next(islice(drawn, step - 1, None))


def _drawn(rows: int, seed: int, draw: Draw) -> Iterator[int]:
    """Rows without end: all of them in one order after the other, or each by chance from all."""
    if draw == "traversal":
        yield from _draw(rows, seed)
    chance = random.Random(seed)
    while True:
        yield int(chance.random() * rows)


def _fitting(drawn: Iterator[int], lengths: np.ndarray, batch_tokens: int) -> Iterator[list[int]]:
    """Rows in the order in which they are drawn, at least one at a time, together `batch_tokens` tokens at most."""
    group: list[int] = []
    room = batch_tokens
    for place in drawn:
        needed = int(lengths[place]) - 1
        if group and needed > room:
            yield group
            group, room = [], batch_tokens
        group.append(place)
        room -= needed
    if group:
        yield group


def _drawn_by_steps(rows: int, step_rows: int, seed: int, first_step: int) -> Iterator[list[int]]:
    """The places of the rows of each step from `first_step` on, without end."""
    step_rows = min(step_rows, rows)
    drawn = islice(_draw(rows, seed), (first_step - 1) * step_rows, None)
    while True:
        yield list(islice(drawn, step_rows))


def _draw(rows: int, seed: int) -> Iterator[int]:
    epoch = 0
    while True:
        yield from epoch_order(rows, seed, epoch)
        epoch += 1
