"""Tokenisers in any of the layouts that models are published with, as transformers' fast tokeniser.

TOKENIZER_LAYOUTS has one row a layout, recognised by the content of its file.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.data.token_bytes import byte_characters
from lotune.errors import ModelError
from lotune.model.convert.byte_pairs import GPT2_PATTERN, LLAMA3_PATTERN, byte_level, merges_of
from lotune.model.convert.sentencepiece_model import (
    Pieces,
    from_pieces,
    is_llama2c_tokenizer,
    is_sentencepiece,
    read_llama2c_tokenizer,
    read_sentencepiece,
    with_names,
)
from lotune.model.weight_files import CONFIG, read_object

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

TOKENIZER_JSON, TOKENIZER_CONFIG = "tokenizer.json", "tokenizer_config.json"
FILE_NAMES = (TOKENIZER_JSON, "tokenizer.model", "encoder.json", "vocab.json", "tokenizer.bin")
"""Names of tokenisers in a folder, in the order in which they are looked for; other *.model files follow."""
MERGES = {"encoder.json": "vocab.bpe", "vocab.json": "merges.txt"}
"""The file of the merges beside a vocabulary of byte pairs."""
ENDS = ("<|endoftext|>", "<|end_of_text|>", "</s>", "<eos>", "<|im_end|>", "<end_of_turn>")
BEGINNINGS = ("<|begin_of_text|>", "<s>", "<bos>")
UNKNOWNS = ("<unk>",)
"""Names of special tokens, by what they are for, where no tokenizer_config.json says it."""
ROLES = {"eos_token": ENDS, "bos_token": BEGINNINGS, "unk_token": UNKNOWNS}
PAD = "pad_token"
LLAMA3_SPECIAL = (
    *("<|begin_of_text|>", "<|end_of_text|>"),
    *(f"<|reserved_special_token_{number}|>" for number in range(4)),
    *("<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"),
    *(f"<|reserved_special_token_{number}|>" for number in range(5, 251)),
)
"""The 256 special tokens of Llama 3, which follow its ranks. Source: tokenizer.py of llama3."""


@dataclass(frozen=True)
class TokenizerLayout:
    """A layout of tokenisers: its name, how its file is recognised, and how it is read.

    `read` takes the file and the names that a tokenizer_config.json gives to ids, each with whether it is special.
    """

    name: str
    recognise: Callable[[Path], bool]
    read: Callable[[Path, Mapping[int, tuple[str, bool]]], Tokenizer]
    begins_texts: bool = False
    """Whether a text begins with the begin-of-text token, if no tokenizer_config.json says it."""


def find_tokenizer(path: Path) -> Path | None:
    """Return the file of a tokeniser in a folder, or the file itself; None if there is none."""
    if path.is_file():
        return path
    named = [path / name for name in FILE_NAMES]
    return next((file for file in (*named, *sorted(path.glob("*.model"))) if file.is_file()), None)


def find_foreign_tokenizer(folder: Path) -> Path | None:
    """Return the file of a model's tokeniser if it is in a layout that transformers itself does not read, or not alone.

    transformers knows for each architecture how vocab.json with merges.txt and models of other names are meant.
    """
    if (folder / TOKENIZER_JSON).is_file() or (folder / "vocab.json").is_file():
        return None
    names = [name for name in FILE_NAMES if name not in (TOKENIZER_JSON, "vocab.json")]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def layout_of(file: Path) -> TokenizerLayout:
    """Return the layout of a tokeniser's file. Raises: ModelError if it is of none."""
    try:
        layout = next((layout for layout in TOKENIZER_LAYOUTS if layout.recognise(file)), None)
    except OSError as error:
        raise ModelError(str(file), f"cannot be read: {error.strerror}", "a tokeniser", "check the path") from None
    if layout is None:
        names = ", ".join(layout.name for layout in TOKENIZER_LAYOUTS)
        raise ModelError(str(file), "is no tokeniser that lotune knows", names, "name another file with --tokenizer")
    return layout


def read_tokenizer(path: Path) -> tuple[PreTrainedTokenizerBase, str]:
    """Return the tokeniser in a file or folder, and the name of its layout.

    Special tokens and chat template come from the tokenizer_config.json beside it, else from the names of its tokens.

    Raises: ModelError if there is no tokeniser, if it is damaged or of an unknown layout, or if it has no end-of-text.
    """
    from transformers import PreTrainedTokenizerFast

    file = find_tokenizer(path)
    if file is None:
        found = "has no tokeniser" if path.is_dir() else "does not exist"
        raise ModelError(str(path), found, ", ".join(FILE_NAMES), "name its file with --tokenizer")
    if path.is_dir() and (path / CONFIG).is_file() and find_foreign_tokenizer(path) is None:
        return _transformers_own(path), f"transformers' own ({file.name})"
    layout, config = layout_of(file), _config_beside(file)
    names = dict(_added_names(config))
    try:
        tokenizer = layout.read(file, names)
    except ModelError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise ModelError(str(file), f"is damaged: {error}", layout.name, "download it again") from None
    _check_ids(tokenizer, names, file)
    roles = _roles(tokenizer, config)
    if "eos_token" not in roles:
        found, remedy = "names no end-of-text token", f"name it as eos_token in a {TOKENIZER_CONFIG} beside it"
        raise ModelError(str(file), found, f"one of {', '.join(ENDS)}", remedy)
    if layout.name != TOKENIZER_JSON:
        _begin_texts(tokenizer, roles, config.get("add_bos_token", layout.begins_texts))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **roles)
    fast.chat_template = _chat_template(file, config)
    return fast, layout.name


def _transformers_own(folder: Path) -> PreTrainedTokenizerBase:
    """Return the tokeniser of a model's folder as transformers reads it, which runs no code of the model.

    Raises: ModelError if it needs code of its own or is damaged.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # the library raises Exception itself
        found = f"its tokeniser cannot be read: {' '.join(str(error).split())[:200]}"
        raise ModelError(str(folder), found, TOKENIZER_JSON, "name another file with --tokenizer") from None
    return tokenizer


def _config_beside(file: Path) -> dict[str, Any]:
    config = file.parent / TOKENIZER_CONFIG
    return read_object(config, str(file.parent)) if config.is_file() else {}


def _added_names(config: Mapping[str, Any]) -> Iterator[tuple[int, tuple[str, bool]]]:
    """Yield the ids that a tokenizer_config.json names, each with its text and whether it is a special token."""
    added = config.get("added_tokens_decoder")
    for number, token in added.items() if isinstance(added, dict) else ():
        if str(number).isdecimal() and isinstance(token, dict) and isinstance(token.get("content"), str):
            yield int(number), (token["content"], bool(token.get("special")))


def _check_ids(tokenizer: Tokenizer, names: Mapping[int, tuple[str, bool]], file: Path) -> None:
    """Add the tokens that follow the vocabulary. Raises: ModelError if a token would get another id than its own."""
    from tokenizers import AddedToken

    for number, (text, special) in sorted(names.items()):
        if tokenizer.token_to_id(text) is None:
            add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
            add([AddedToken(text, normalized=False, special=special)])
        if tokenizer.token_to_id(text) != number:
            found = f"names token {number} {text!r}, which has the id {tokenizer.token_to_id(text)}"
            raise ModelError(str(file.parent / TOKENIZER_CONFIG), found, "the same ids in both", "take another copy")


def _roles(tokenizer: Tokenizer, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the special tokens by what they are for."""
    roles = {}
    for role in (*ROLES, PAD):
        token = config.get(role)
        token = token.get("content") if isinstance(token, dict) else token
        named = [token] if isinstance(token, str) else [] if role in config else ROLES.get(role, ())
        found = next((name for name in named if tokenizer.token_to_id(name) is not None), None)
        if found is not None:
            roles[role] = found
    return roles


def _begin_texts(tokenizer: Tokenizer, roles: Mapping[str, str], begins: bool) -> None:
    """Make texts begin with the begin-of-text token."""
    from tokenizers import processors

    if begins and (token := roles.get("bos_token")):
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{token} $A", pair=f"{token} $A {token} $B", special_tokens=[(token, tokenizer.token_to_id(token))]
        )


def _chat_template(file: Path, config: Mapping[str, Any]) -> str | None:
    path = file.parent / "chat_template.jinja"
    template = path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
    return template if isinstance(template, str) else None


def _is_tokenizer_json(file: Path) -> bool:
    if file.suffix != ".json" or file.name in MERGES:
        return False
    content = read_object(file, str(file.parent))
    return isinstance(content.get("model"), dict)


def _read_tokenizer_json(file: Path, names: Mapping[int, tuple[str, bool]]) -> Tokenizer:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(file))


def _is_byte_pairs(file: Path) -> bool:
    return file.name in MERGES


def _read_byte_pairs(file: Path, names: Mapping[int, tuple[str, bool]]) -> Tokenizer:
    """Return the tokeniser of a vocabulary with the file of its merges beside it, in GPT-2's layout."""
    vocab, merges_file = read_object(file, str(file.parent)), file.parent / MERGES[file.name]
    if not merges_file.is_file():
        raise ModelError(str(file), f"has no {merges_file.name} beside it", "vocabulary and merges", "copy both files")
    if not all(isinstance(number, int) for number in vocab.values()):
        raise ModelError(str(file), "does not map texts to numbers", "the id of each token", "download it again")
    lines = merges_file.read_text(encoding="utf-8").split("\n")
    pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#version")]
    if wrong := next((number for number, pair in enumerate(pairs) if len(pair) != 2), None):
        raise ModelError(str(merges_file), f"merge {wrong} is no pair", "two pieces a line", "download it again")
    special = [token for token in (*ENDS, *BEGINNINGS) if token in vocab]
    return byte_level(vocab, [(pair[0], pair[1]) for pair in pairs], GPT2_PATTERN, special)


def _is_ranks(file: Path) -> bool:
    with file.open("rb") as lines:
        line = lines.readline(200)
    try:
        _rank(line)
    except (ValueError, binascii.Error):
        return False
    return True


def _rank(line: bytes) -> tuple[bytes, int]:
    token, number = line.split()
    return base64.b64decode(token, validate=True), int(number)


def _read_ranks(file: Path, names: Mapping[int, tuple[str, bool]]) -> Tokenizer:
    """Return the tokeniser of a file of ranks, in tiktoken's layout, with the pattern and special tokens of Llama 3."""
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            token, rank = _rank(line)
        except (ValueError, binascii.Error):
            found = f"line {number} is no token in base64 with its rank"
            raise ModelError(str(file), found, "tiktoken's layout", "download it again") from None
        ranks[token] = rank
    if sorted(ranks.values()) != list(range(len(ranks))) or not all(bytes([byte]) in ranks for byte in range(256)):
        raise ModelError(str(file), f"its {len(ranks)} ranks have gaps", "a rank for every token", "download it again")
    letters = byte_characters()
    vocab = {"".join(letters[byte] for byte in token): rank for token, rank in ranks.items()}
    special = [names.get(number, (name, True))[0] for number, name in enumerate(LLAMA3_SPECIAL, start=len(ranks))]
    # tiktoken looks a whole pre-token up before it merges bytes.
    return byte_level(vocab, merges_of(vocab, vocab), LLAMA3_PATTERN, special, ignore_merges=True)


def _pieces_reader(read: Callable[[Path], Pieces]) -> Callable[[Path, Mapping[int, tuple[str, bool]]], Tokenizer]:
    def tokenizer_of(file: Path, names: Mapping[int, tuple[str, bool]]) -> Tokenizer:
        vocabulary = read(file)
        return from_pieces(replace(vocabulary, pieces=with_names(vocabulary.pieces, names)))

    return tokenizer_of


TOKENIZER_LAYOUTS = (
    TokenizerLayout(TOKENIZER_JSON, _is_tokenizer_json, _read_tokenizer_json),
    TokenizerLayout("GPT-2's byte pairs", _is_byte_pairs, _read_byte_pairs),
    TokenizerLayout("tiktoken's ranks", _is_ranks, _read_ranks, begins_texts=True),
    TokenizerLayout("SentencePiece", is_sentencepiece, _pieces_reader(read_sentencepiece), begins_texts=True),
    TokenizerLayout(
        "llama2.c's tokeniser", is_llama2c_tokenizer, _pieces_reader(read_llama2c_tokenizer), begins_texts=True
    ),
)
"""The layouts of tokenisers, in the order in which they are tried."""
