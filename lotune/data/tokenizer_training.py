"""Train a byte-level BPE tokeniser in which each digit and each symbol is a token of its own, and check tokenisers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import orjson

from lotune.errors import ModelError, SettingsError
from lotune.files import write_atomically

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

EOS_TOKEN, PAD_TOKEN = "<|endoftext|>", "<|pad|>"
CONTEXT = 1024
"""Longest text in tokens that a trained tokeniser declares (`model_max_length`)."""
LETTER = r"[^\P{L}\p{Han}]"
PRETOKEN_PATTERN = rf"\p{{Han}}| ?(?=[^\p{{Lu}}\p{{Lt}}]){LETTER}+|{LETTER}+|#+|[\s\S]"
"""Pre-tokens, which BPE never merges: a Chinese character; a word of other letters, with the space before it if its
first letter is small; a run of `#`; any other single character (digit, symbol, space, newline).

So a name has the same tokens inside a sentence as at the start of an answer, and can be copied. With Chinese runs and
spaces before capitals merged, 14 % of the Chinese and 69 % of the English answers had other tokens than in their
passage (docs/log.md)."""
SINGLE_CHARACTER_PRETOKENS = r"\x00-\x1f!-\"$-@\[-`{-\x7f\u4e00-\u9fa5"
"""Characters that are always a pre-token of their own: ASCII other than letters, spaces and `#`, and the Chinese
characters that every version of Unicode has."""
PRETOKEN_SPLITS = re.compile(rf"[{SINGLE_CHARACTER_PRETOKENS}]| ?[^ {SINGLE_CHARACTER_PRETOKENS}]+| ")
"""Parts between which PRETOKEN_PATTERN always splits a text: around single-character pre-tokens, and before a space.
Python's re has no `\\p{Han}`, so these parts may hold several pre-tokens, but never a part of one."""
FORCED_SYMBOLS = "×÷√°，。、；：？！（）《》“”‘’…—·￥"
"""Symbols of more than one byte that are always a single token."""
# BPE merges frequent pairs first, so the symbols are repeated in the training texts until their bytes are merged.
SIGN_WEIGHT = 3000
# Two special tokens, all bytes, and up to two merges for each symbol of three bytes.
SMALLEST_VOCABULARY = 2 + 256 + 2 * len(FORCED_SYMBOLS)


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> PreTrainedTokenizerFast:
    """Train a tokeniser on texts, and save it to `folder` in Hugging Face's format; the result is deterministic.

    It encodes any text without loss, and adds no special tokens. Id 0 is end-of-text, id 1 padding. The vocabulary is
    smaller than `vocab_size` if the texts have too few words.

    Raises: SettingsError if `vocab_size` is too small for all bytes and symbols.
    """
    from tokenizers import trainers

    if vocab_size < SMALLEST_VOCABULARY:
        raise SettingsError("vocab_size", str(vocab_size), f"{SMALLEST_VOCABULARY} or more")
    tokenizer = _untrained()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[EOS_TOKEN, PAD_TOKEN],
        initial_alphabet=_bytes(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(chain(texts, [FORCED_SYMBOLS * SIGN_WEIGHT]), trainer)
    return _save(tokenizer, folder)


class LightTokenizer:
    """A saved tokeniser with the interface that `encode_row` and `render_supervision` use, without transformers.

    `lotune init` uses it to encode an example without the seconds that importing transformers takes.

    Raises: ModelError if a file is missing or damaged, or if there is no end-of-text token.
    """

    def __init__(self, folder: Path) -> None:
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            end = orjson.loads((folder / "tokenizer_config.json").read_bytes())["eos_token"]
        except Exception as error:  # the library raises Exception itself
            raise ModelError(str(folder), f"its tokeniser cannot be read: {error}", "tokenizer.json") from None
        self.eos_token_id = self._tokenizer.token_to_id(end)
        if self.eos_token_id is None:
            raise ModelError(
                str(folder), "its tokeniser has no end-of-text token", "eos_token in tokenizer_config.json"
            )

    def __call__(
        self, text: str, *, add_special_tokens: bool, split_special_tokens: bool, verbose: bool
    ) -> dict[str, list[int]]:
        """Return the token ids of a text as transformers does, under `input_ids`."""
        self._tokenizer.encode_special_tokens = split_special_tokens
        return {"input_ids": self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids}

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens included."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=False)
        return text


MAX_EMBEDDING_RATIO = 4
"""Largest ratio of embedding rows to tokens; above it, the tokeniser belongs to another model."""
SPECIAL = ("eos_token_id", "bos_token_id", "pad_token_id")


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, embedding_rows: int, name: str, special: Mapping[str, Any] | None = None
) -> None:
    """Check that a tokeniser belongs to the model `name`, whose embedding has `embedding_rows` rows.

    `special` is the model's configuration, with `eos_token_id` and others; each is a number, a list of numbers or None.

    Raises: ModelError if the tokeniser has no tokens, a token without a row in the embedding, tokens for less than a
    quarter of the rows, or no end-of-text token, or if all of several special tokens differ from the model's.
    """
    tokens = 1 + max(tokenizer.get_vocab().values(), default=-1)
    if not tokens:
        raise ModelError(name, "has no tokeniser", "tokenizer.json beside the weights")
    if tokens > embedding_rows:
        found = f"its tokeniser has {tokens} tokens, its embedding {embedding_rows} rows"
        raise ModelError(name, found, "a row for every token", "take the tokeniser that belongs to the model")
    if embedding_rows > MAX_EMBEDDING_RATIO * tokens:
        found = f"its tokeniser has only {tokens} tokens for the {embedding_rows} rows of its embedding"
        raise ModelError(name, found, "tokens for a quarter at least", "take the tokeniser that belongs to the model")
    if tokenizer.eos_token_id is None:
        raise ModelError(name, "its tokeniser has no end-of-text token", "eos_token in tokenizer_config.json")
    ids = [(key, getattr(tokenizer, key), (special or {}).get(key)) for key in SPECIAL]
    # Ids without an embedding row, such as an architecture's defaults, are ignored. A single id may differ on purpose:
    # chat models end with a token of their own, and some distilled ones begin with one.
    comparisons = [
        (
            f"{key} is {tokenizer_id} in its tokeniser, {model_ids} in its config.json",
            tokenizer_id in _as_list(model_ids),
        )
        for key, tokenizer_id, model_ids in ids
        if tokenizer_id is not None and any(id in range(embedding_rows) for id in _as_list(model_ids))
    ]
    if len(comparisons) > 1 and not any(agrees for _, agrees in comparisons):
        found = ", ".join(text for text, _ in comparisons)
        raise ModelError(name, found, "the same tokens in both", "take the tokeniser that belongs to the model")


def _as_list(ids: Any) -> list[Any]:
    return ids if isinstance(ids, list) else [ids]


def padding_id(tokenizer: Any) -> int:
    """Return the id for padding, which is neither in the loss nor attended to: end-of-text if there is no other."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def splits_at_pretokens(tokenizer: Any) -> bool:
    """Return whether a tokeniser encodes a text as its parts (`PRETOKEN_SPLITS`), one after the other.

    It does if it has the pre-tokenizer of `train_tokenizer`, no normalizer, no dropout, no special tokens around a
    text, and no added words.
    """
    from transformers import PreTrainedTokenizerFast

    if type(tokenizer) is not PreTrainedTokenizerFast:
        return False
    backend = tokenizer.backend_tokenizer
    state = orjson.loads(backend.to_str())
    divided = state["pre_tokenizer"] == orjson.loads(_untrained().to_str())["pre_tokenizer"]
    added = any(not token["special"] for token in state["added_tokens"])
    plain = state["normalizer"] is None and not state["model"].get("dropout") and not added
    return divided and plain and backend.num_special_tokens_to_add(False) == 0


def _bytes() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


def _untrained() -> Tokenizer:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PRETOKEN_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _save(tokenizer: Tokenizer, folder: Path) -> PreTrainedTokenizerFast:
    """Convert a tokeniser to transformers' class and write its files to `folder`, each atomically."""
    from transformers import PreTrainedTokenizerFast

    trained = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=EOS_TOKEN,
        pad_token=PAD_TOKEN,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )
    with TemporaryDirectory() as temporary:
        trained.save_pretrained(temporary)
        for file in sorted(Path(temporary).iterdir()):
            write_atomically(folder / file.name, file.read_bytes())
    return trained
