"""Train a byte-level BPE tokeniser in which every digit and every sign is a token of its own."""

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
"""Tokens that the trained tokeniser declares as its longest text."""
LETTER = r"[^\P{L}\p{Han}]"
PRETOKEN_PATTERN = rf"\p{{Han}}| ?(?=[^\p{{Lu}}\p{{Lt}}]){LETTER}+|{LETTER}+|#+|[\s\S]"
"""What is never merged across: a Chinese character; a word of other letters, with the blank before it where it begins
small; `###`; any other one character (digit, sign, blank, newline). So a name has the same tokens inside a sentence as
at the start of an answer, in both languages: with merged Chinese runs and blanks before capitals, 14 % of the Chinese
and 69 % of the English answers had other tokens than in their passage, and could not simply be copied."""
SINGLE_CHARACTER_PRETOKENS = r"\x00-\x1f!-\"$-@\[-`{-\x7f\u4e00-\u9fa5"
"""Characters that PRETOKEN_PATTERN makes a piece of their own wherever they stand: ASCII other than letters, blanks and
`#`, and the Chinese characters that every version of Unicode has."""
PRETOKEN_SPLITS = re.compile(rf"[{SINGLE_CHARACTER_PRETOKENS}]| ?[^ {SINGLE_CHARACTER_PRETOKENS}]+| ")
"""Parts of a text between which PRETOKEN_PATTERN always divides it: around a character that stands alone, and
before a blank."""
FORCED_SYMBOLS = "×÷√°，。、；：？！（）《》“”‘’…—·￥"
"""Signs of more than one byte that are always to be one token."""
SIGN_WEIGHT = 3000
SMALLEST_VOCABULARY = 2 + 256 + 2 * len(FORCED_SYMBOLS)


def train_tokenizer(texts: Iterable[str], vocab_size: int, folder: Path) -> PreTrainedTokenizerFast:
    """A tokeniser trained on `texts`, saved to `folder` as Hugging Face reads it; the same for the same texts.

    Any text can be encoded, and decoding gives it back. Id 0 ends a text, id 1 pads; nothing is added to a text. The
    vocabulary is smaller than `vocab_size` where the texts hold too few words.

    Raises: SettingsError where `vocab_size` cannot hold the bytes and signs that are always in it.
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
    """A saved tokeniser as `encode_row` and `marked` use one, read without importing transformers.

    Raises: ModelError where a file is missing or damaged, or no token ends a text.
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
"""Rows of an embedding for each token of its tokeniser, at most: with more it is another model's."""
SPECIAL = ("eos_token_id", "bos_token_id", "pad_token_id")


def check_tokenizer(
    tokenizer: PreTrainedTokenizerBase, embedding_rows: int, name: str, special: Mapping[str, Any] | None = None
) -> None:
    """Nothing, where the tokeniser suits the model `name`, whose embedding has `embedding_rows` rows.

    `special` is the model's own configuration, with eos_token_id and others, of which each is one number, several or
    None; a number without a row, such as an architecture's default, says nothing. One that differs may be meant: models
    tuned for chats end with a token of their own, and some distilled ones begin with one.
    Raises: ModelError where it has no token, one without a row in the embedding, tokens for less than a quarter of the
    rows, none that ends a text, or where of several special tokens all are others to the model.
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
    known = [
        (f"{key} is {ours} in its tokeniser, {theirs} in its config.json", ours in _several(theirs))
        for key, ours, theirs in ids
        if ours is not None and any(one in range(embedding_rows) for one in _several(theirs))
    ]
    if len(known) > 1 and not any(agrees for _, agrees in known):
        found = ", ".join(text for text, _ in known)
        raise ModelError(name, found, "the same tokens in both", "take the tokeniser that belongs to the model")


def _several(ids: Any) -> list[Any]:
    return ids if isinstance(ids, list) else [ids]


def padding_id(tokenizer: Any) -> int:
    """The id that fills up lines; it is never scored and never attended to."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id)


def splits_at_pretokens(tokenizer: Any) -> bool:
    """Whether a text's tokens are, for this tokeniser, those of its parts (`PRETOKEN_SPLITS`) one after the other.

    It is so where it divides texts as `train_tokenizer` has it, changes and adds nothing before or after that, and
    looks for no words of its own in a text.
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
    """The tokeniser in transformers' form, written to `folder` file by file, each atomically."""
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
