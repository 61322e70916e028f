"""Prompt and answer of an example to tokens, and which of them are trained on."""

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
"""Places of a stretch of tokens: its first one, and the one after its last."""
Encode = Callable[[str, bool], Sequence[int]]
"""Gives the token ids of a text; the flag says whether it begins a row, and so gets what the tokeniser puts first."""


@dataclass(frozen=True)
class EncodedRow:
    """Tokens of one row; those from `completion_start` on are the last answer, and are trained on.

    `earlier_completions` holds start and end of each earlier answer of a conversation that is trained on, too.
    `is_replay`: the row replays the retained task.
    """

    id: str
    token_ids: tuple[int, ...]
    completion_start: int
    earlier_completions: tuple[Span, ...] = ()
    is_replay: bool = False

    @property
    def spans(self) -> tuple[Span, ...]:
        """Start and end of everything that is trained on, in order.

        >>> EncodedRow("1", (7, 7, 7, 0, 8, 8, 0), 5, ((1, 4),)).spans
        ((1, 4), (5, 7))
        """
        return (*self.earlier_completions, (self.completion_start, len(self.token_ids)))


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
    if example.turn_end:
        prompt, answer, earlier = _encode_chat(tokenizer, example)
        return EncodedRow(example.id, (*prompt, *answer, answer_end_id(tokenizer, example)), len(prompt), earlier)
    return encode_with(partial(encode_text, tokenizer), example, tokenizer.eos_token_id)


def encode_with(encode: Encode, example: Example, end: int) -> EncodedRow:
    """The same with another way to encode a text, and `end` for the end-of-text token; texts are asked for in order."""
    prompt, earlier = _encode_prompt(encode, example, end)
    answer = encode(example.target, False)
    return EncodedRow(example.id, (*prompt, *answer, end), len(prompt), earlier)


def _encode_prompt(encode: Encode, example: Example, end: int) -> tuple[list[int], tuple[Span, ...]]:
    """Token ids of a prompt, and the spans of its earlier answers, with their end-of-text, that are scored."""
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
    """Token ids of a prompt in a chat template and of its answer, and the spans of earlier answers that are scored."""
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
    """Token ids of both, as the tokeniser gives them for the text of both where its tokens end at the boundary."""

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False, split_special_tokens=False, verbose=False)["input_ids"])

    ids, together = encode(prompt), encode(prompt + answer)
    if together[: len(ids)] == ids:
        return ids, together[len(ids) :]
    return ids, encode_text(tokenizer, answer)


def answer_end_id(tokenizer: Any, example: Example) -> int:
    """Return the id of the token that ends the example's answers."""
    return int(tokenizer.convert_tokens_to_ids(example.turn_end) if example.turn_end else tokenizer.eos_token_id)


def render_supervision(tokenizer: Any, row: EncodedRow) -> str:
    """The text of a row as the model sees it, what is trained on between ⟦ and ⟧."""
    text, end = "", 0
    for start, stop in row.spans:
        text += f"{tokenizer.decode(row.token_ids[end:start])}⟦{tokenizer.decode(row.token_ids[start:stop])}⟧"
        end = stop
    return text


def check_scored_tokens(row: EncodedRow, end_ids: Collection[int]) -> None:
    """Refuse a row that would teach nothing, or never to stop; `end_ids` are the tokens that end an answer.

    Raises: DataError naming the row.
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
    """Token ids of a text; what reads like a special token in it is text, or a row could end its own answer."""
    ids = list(tokenizer(text, add_special_tokens=first, split_special_tokens=True, verbose=False)["input_ids"])
    return strip_eos(ids, tokenizer.eos_token_id) if first else ids


def strip_eos(ids: list[int], end: int) -> list[int]:
    """The ids without an end-of-text that some tokenisers put after every text."""
    return ids[:-1] if ids and ids[-1] == end else ids
