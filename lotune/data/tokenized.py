"""Encode the prompt and the answer of an example as tokens, and record which of them are in the loss."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from lotune.errors import DataError

if TYPE_CHECKING:
    from lotune.data.examples import Example

Span = tuple[int, int]
"""Indices of the first token of a span, and of the token after its last."""
Encode = Callable[[str, bool], Sequence[int]]
"""Return the token ids of a text; the flag tells whether the text begins a row, and thus gets a begin-of-text token."""


@dataclass(frozen=True)
class EncodedRow:
    """Tokens of one row; those from `completion_start` on are the last answer, which is in the loss.

    `earlier_completions` has start and end of each earlier answer of a conversation that is in the loss, too.
    `is_replay` tells whether the row replays the retained task.
    """

    id: str
    token_ids: tuple[int, ...]
    completion_start: int
    earlier_completions: tuple[Span, ...] = ()
    is_replay: bool = False

    @property
    def spans(self) -> tuple[Span, ...]:
        """Start and end of each answer in the loss, in order.

        >>> EncodedRow("1", (7, 7, 7, 0, 8, 8, 0), 5, ((1, 4),)).spans
        ((1, 4), (5, 7))
        """
        return (*self.earlier_completions, (self.completion_start, len(self.token_ids)))


def chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Yield the items in lists of `size`; the last list may be shorter.

    >>> list(chunks("abcde", 2))
    [['a', 'b'], ['c', 'd'], ['e']]
    """
    items = iter(items)
    while chunk := list(islice(items, size)):
        yield chunk


class PromptTooLongError(DataError):
    """A prompt has more tokens than fit, and no passage that may be truncated."""


def encode_prompt(tokenizer: Any, example: Example, budget: int, *, truncate: bool = False) -> tuple[list[int], bool]:
    """Return the token ids of a prompt, `budget` at most, and whether it was truncated.

    Begin-of-text is added if the tokeniser adds one, end-of-text never. A passage is truncated at its end, so that the
    question stays complete. Each earlier answer of a conversation ends with end-of-text, as in training. With
    `truncate`, a prompt that is too long and has no passage loses its middle.

    Raises: PromptTooLongError if the prompt is too long, has no passage to truncate, and `truncate` is False.
    """
    if example.turn_end:
        ids = list(_encode_chat(tokenizer, example)[0])
    else:
        ids, _ = _encode_prompt(partial(encode_text, tokenizer), example, tokenizer.eos_token_id)
    if len(ids) <= budget:
        return ids, False
    found = f"the prompt has {len(ids)} tokens"
    if example.prompt_parts is not None:
        head, middle, tail = example.prompt_parts
        head_ids = encode_text(tokenizer, head, first=True)
        tail_ids = encode_text(tokenizer, tail)
        remaining = budget - len(head_ids) - len(tail_ids)
        if remaining >= 1:
            return head_ids + encode_text(tokenizer, middle)[:remaining] + tail_ids, True
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
    """Return the first and the last ids, about equally many of each and `budget` (1 or more) together.

    >>> _without_middle([1, 2, 3, 4, 5], 3), _without_middle([1, 2, 3, 4, 5], 2)
    ([1, 2, 5], [1, 5])
    """
    end = budget // 2
    return ids[: budget - end] + ids[len(ids) - end :]


def encode_row(tokenizer: Any, example: Example) -> EncodedRow:
    """Return the tokens of prompt, answer and end-of-text; of the prompt, only earlier answers can be in the loss.

    Prompt and answer are encoded separately, as generation, too, encodes the prompt alone.
    """
    if example.turn_end:
        prompt, answer, earlier = _encode_chat(tokenizer, example)
        return EncodedRow(example.id, (*prompt, *answer, answer_end_id(tokenizer, example)), len(prompt), earlier)
    return encode_with(partial(encode_text, tokenizer), example, tokenizer.eos_token_id)


def encode_with(encode: Encode, example: Example, end: int) -> EncodedRow:
    """Encode an example as `encode_row` does, with `encode` for its texts, in their order; `end` is end-of-text."""
    prompt, earlier = _encode_prompt(encode, example, end)
    answer = encode(example.target, False)
    return EncodedRow(example.id, (*prompt, *answer, end), len(prompt), earlier)


def encode_target(tokenizer: Any, example: Example) -> list[int]:
    """Return the token ids of an example's target as training encodes them, without the end-of-text token."""
    return _encode_chat(tokenizer, example)[1] if example.turn_end else encode_text(tokenizer, example.target)


def _encode_prompt(encode: Encode, example: Example, end: int) -> tuple[list[int], tuple[Span, ...]]:
    """Return the token ids of a prompt, and the spans of its earlier answers in the loss, with their end-of-text."""
    ids: list[int] = []
    spans = []
    for turn in example.earlier_turns:
        ids += encode(turn.prompt, not ids)
        start = len(ids)
        ids += [*encode(turn.answer, False), end]
        if turn.scored:
            spans.append((start, len(ids)))
    ids += encode(example.question, not ids)
    return ids, tuple(spans)


def _encode_chat(tokenizer: Any, example: Example) -> tuple[list[int], list[int], tuple[Span, ...]]:
    """Return the token ids of a prompt in a chat template, those of its answer, and the spans of earlier answers."""
    ids: list[int] = []
    spans = []
    for turn in example.earlier_turns:
        prompt, answer = _encode_chat_turn(tokenizer, turn.prompt, turn.answer)
        start = len(ids) + len(prompt)
        ids += [*prompt, *answer, answer_end_id(tokenizer, example)]
        if turn.scored:
            spans.append((start, len(ids)))
    prompt, answer = _encode_chat_turn(tokenizer, example.question, example.target)
    return ids + prompt, answer, tuple(spans)


def _encode_chat_turn(tokenizer: Any, prompt: str, answer: str) -> tuple[list[int], list[int]]:
    """Return the token ids of prompt and answer, encoded as one text if a token ends where the prompt does."""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)["input_ids"])

    ids, joint_ids = encode(prompt), encode(prompt + answer)
    if joint_ids[: len(ids)] == ids:
        return ids, joint_ids[len(ids) :]
    return ids, encode_text(tokenizer, answer)


def answer_end_id(tokenizer: Any, example: Example) -> int:
    """Return the id of the token that ends the example's answers."""
    return int(tokenizer.convert_tokens_to_ids(example.turn_end) if example.turn_end else tokenizer.eos_token_id)


def render_supervision(tokenizer: Any, row: EncodedRow) -> str:
    """Return the text of a row as the model sees it, with the parts in the loss between ⟦ and ⟧."""
    text, end = "", 0
    for start, stop in row.spans:
        text += f"{tokenizer.decode(row.token_ids[end:start])}⟦{tokenizer.decode(row.token_ids[start:stop])}⟧"
        end = stop
    return text


def check_scored_tokens(row: EncodedRow, end_ids: Collection[int]) -> None:
    """Check that each answer of a row has a token in the loss and ends with one of `end_ids`.

    Without that end, the model would learn never to stop. Raises: DataError that names the row.
    """
    if any(end - start <= 1 for start, end in row.spans):
        raise DataError(
            f"row {row.id}", "no token of its answer is trained on", "an answer after the prompt", "give it one"
        )
    if any(row.token_ids[end - 1] not in end_ids for _, end in row.spans):
        raise DataError(
            f"row {row.id}", "its answer does not end with end-of-text", "a scored end-of-text", "do not cut it"
        )


def encode_text(tokenizer: Any, text: str, first: bool = False) -> list[int]:
    """Return the token ids of a text; with `first`, with the begin-of-text token of tokenisers that add one."""
    # The name of a special token in a text is text, or a row could end its own answer.
    ids = list(tokenizer(text, add_special_tokens=first, split_special_tokens=True, verbose=False)["input_ids"])
    return strip_eos(ids, tokenizer.eos_token_id) if first else ids


def first_ids(tokenizer: Any) -> list[int]:
    """Return the token to read before a text that nothing precedes: begin-of-text, else end-of-text, if there is one.

    It lets the first token of the text be predicted.
    """
    # Qwen's tokeniser, for example, has no begin-of-text token; its training separated documents by end-of-text.
    ids = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    return [id for id in ids if id is not None][:1]


def strip_eos(ids: list[int], end: int) -> list[int]:
    """Return the ids without the end-of-text that some tokenisers append to every text."""
    return ids[:-1] if ids and ids[-1] == end else ids
