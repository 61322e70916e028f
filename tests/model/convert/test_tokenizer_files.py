"""Tokenisers of every layout encode after their conversion as their own programs do."""

from __future__ import annotations

import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import foreign_models as foreign
import pytest

from lotune.errors import ModelError
from lotune.model.convert.tokenizer_files import LLAMA3_SPECIAL, layout_of, read_tokenizer

TEXTS = (
    "Hello world", " Hello  world!", "It's 12345 o'clock, isn't it?\n\n\tdef f(x): return x**2", "中国的首都是北京。",
    "计算 12.5 + 3 等于多少？\r\n", "𠮷 🦙 ́e ", "", "   ", "Straße ½ naïve — “quoted” …",
)  # fmt: skip


def ids_of(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def vectors(folder: Path, name: str) -> list[tuple[str, list[int]]]:
    """Texts and token ids of llama.cpp's vectors."""
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    lines = (folder / f"ggml-vocab-{name}.gguf.out").read_text(encoding="utf-8").split("\n")
    return [(text, [int(number) for number in line.split()]) for text, line in zip(texts, lines, strict=False)]


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("source", "name"),
    [("gpt2/encoder.json", "gpt-2"), ("llama3/tokenizer.model", "llama-bpe"), ("gpt2", "gpt-2")],
)
def test_published_vectors(source: str, name: str, reference_data: Path) -> None:
    tokenizer, _ = read_tokenizer(reference_data / "tokenizers" / source)
    pairs = vectors(reference_data / "tokenizers" / "vectors", name)
    assert len(pairs) > 40
    for text, ids in pairs:
        assert ids_of(tokenizer, text) == ids, text


@pytest.mark.oracle
def test_ranks_encode_as_in_tiktoken(reference_data: Path) -> None:
    import base64

    import tiktoken

    from lotune.model.convert.byte_pairs import LLAMA3_PATTERN

    file = reference_data / "tokenizers" / "llama3" / "tokenizer.model"
    ranks = {base64.b64decode(line.split()[0]): int(line.split()[1]) for line in file.read_bytes().splitlines()}
    special = {token: len(ranks) + number for number, token in enumerate(LLAMA3_SPECIAL)}
    theirs = tiktoken.Encoding("llama3", pat_str=LLAMA3_PATTERN, mergeable_ranks=ranks, special_tokens=special)
    ours, name = read_tokenizer(file)
    assert name == "tiktoken's ranks"
    assert len(ours) == 128_256
    chinese = (reference_data / "contest" / "math-300.jsonl").read_text(encoding="utf-8")
    for text in (*TEXTS, *chinese.splitlines()):
        assert ids_of(ours, text) == theirs.encode_ordinary(text)
        assert ours.decode(ids_of(ours, text)) == text
    turns = "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
    assert ids_of(ours, turns) == theirs.encode(turns, allowed_special="all")
    assert (ours.bos_token_id, ours.eos_token_id) == (128_000, 128_001)
    assert ours("Hi")["input_ids"][0] == 128_000


@pytest.mark.oracle
def test_sentencepiece_encodes_as_in_its_own_library(reference_data: Path) -> None:
    import sentencepiece

    file = reference_data / "tokenizers" / "internlm_7b" / "V7_sft.model"
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
    ours, name = read_tokenizer(file)
    assert (name, len(ours)) == ("SentencePiece", 103_168)
    lines = (reference_data / "contest" / "math-300.jsonl").read_text(encoding="utf-8").splitlines()
    lines += (reference_data / "contest" / "choice-2000.json").read_text(encoding="utf-8").splitlines()[:2000]
    for text in (*TEXTS, "<|User|>:Hi<eoh>\n<|Bot|>:", *lines):
        assert ids_of(ours, text) == theirs.encode(text), text
        assert ours.decode(ids_of(ours, text)) == theirs.decode(theirs.encode(text))
    assert (ours.bos_token_id, ours.eos_token_id, ours.unk_token_id) == (1, 2, 0)


def trained_sentencepiece(folder: Path, **options: Any) -> Path:
    import sentencepiece

    texts = ["the cat sat on the mat", "在北京的中国人", "one two three four", "a quick brown fox"] * 30
    (folder / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "texts.txt"), model_prefix=str(folder / "tokenizer"), minloglevel=2, **options
    )
    return folder / "tokenizer.model"


@pytest.mark.oracle
@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "bpe", "vocab_size": 320, "byte_fallback": True, "normalization_rule_name": "identity"},
        {"model_type": "bpe", "vocab_size": 320, "byte_fallback": True, "add_dummy_prefix": False,
         "remove_extra_whitespaces": False, "user_defined_symbols": ["<|im_start|>", "▁▁"]},
        {"model_type": "unigram", "vocab_size": 291, "byte_fallback": True},
        {"model_type": "unigram", "vocab_size": 35, "byte_fallback": False},
    ],
    ids=["bpe", "bpe-plain", "unigram", "unigram-unknown"],
)  # fmt: skip
def test_models_of_every_kind_encode_as_in_sentencepiece(options: dict[str, Any], tmp_path: Path) -> None:
    import sentencepiece

    file = trained_sentencepiece(tmp_path, **options)
    theirs, (ours, _) = sentencepiece.SentencePieceProcessor(model_file=str(file)), read_tokenizer(file)
    for text in (*TEXTS, "the fox sat  on the mat", "a<|im_start|>user 北京", "on  the   mat"):
        # tokenizers looks the two characters up as one in a table of normalisation, SentencePiece one by one.
        text = text.replace("\r\n", "\n")
        assert ids_of(ours, text) == theirs.encode(text), text


def llama2c_file(folder: Path) -> tuple[Path, list[tuple[bytes, float]]]:
    texts = [" ", "a", "b", "ab", " a", " ab", "c", "北", "京", "北京", "abc", "bc"]
    tokens = foreign.llama2c_tokens([(text, -float(number)) for number, text in enumerate(texts)])
    foreign.write_llama2c_tokenizer(folder / "tokenizer.bin", tokens)
    return folder / "tokenizer.bin", tokens


def test_llama2c_tokens_are_those_of_run_c(tmp_path: Path) -> None:
    file, tokens = llama2c_file(tmp_path)
    tokenizer, name = read_tokenizer(file)
    assert (name, len(tokenizer)) == ("llama2.c's tokeniser", 320)
    for text in ("ab", "abc", " a b", "北京 abc 𠮷\n", "bcab", "", "x y", "aabbcc", *TEXTS):
        assert ids_of(tokenizer, text) == foreign.llama2c_encode(tokens, text), text
        assert tokenizer.decode(ids_of(tokenizer, text)) == text
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<s>", "</s>")
    assert tokenizer("ab")["input_ids"][0] == 1


@pytest.mark.oracle
def test_a_llama2c_export_of_sentencepiece_encodes_as_sentencepiece(tmp_path: Path) -> None:
    import sentencepiece

    options = {"model_type": "bpe", "vocab_size": 320, "byte_fallback": True, "normalization_rule_name": "identity"}
    file = trained_sentencepiece(tmp_path, remove_extra_whitespaces=False, **options)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
    pieces = [theirs.id_to_piece(number).replace("▁", " ").encode() for number in range(320)]
    tokens = [(piece, theirs.get_score(number)) for number, piece in enumerate(pieces)]
    tokens[1:3] = [(b"\n<s>\n", 0.0), (b"\n</s>\n", 0.0)]
    foreign.write_llama2c_tokenizer(tmp_path / "tok320.bin", tokens)
    ours, _ = read_tokenizer(tmp_path / "tok320.bin")
    for text in TEXTS:
        assert ids_of(ours, text) == theirs.encode(text), text


def test_a_tokenizer_config_names_the_special_tokens(tmp_path: Path) -> None:
    """As InternLM 2 is published: a piece without use is a special token of its chat format."""
    llama2c_file(tmp_path)
    added = {"300": {"content": "<|im_start|>", "special": True}, "320": {"content": "<|new|>", "special": True}}
    config = {"eos_token": {"content": "<|im_start|>"}, "bos_token": "<s>", "pad_token": "</s>", "add_bos_token": False}
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({**config, "added_tokens_decoder": added, "chat_template": template})
    )
    tokenizer, _ = read_tokenizer(tmp_path)
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, len(tokenizer)) == (300, 2, 321)
    assert tokenizer.chat_template == template
    assert tokenizer("ab<|im_start|>")["input_ids"][-1] == 300
    assert tokenizer("ab")["input_ids"][0] != 1


def truncated(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


def overlong(file: Path) -> None:
    file.write_bytes(file.read_bytes() + struct.pack("fi", 0.0, 2**30))


def negative(file: Path) -> None:
    file.write_bytes(file.read_bytes() + struct.pack("fi", 0.0, -5))


@pytest.mark.parametrize("damage", [truncated, overlong, negative])
def test_damaged_llama2c_tokenizers_are_refused(damage: Callable[[Path], None], tmp_path: Path) -> None:
    file, _ = llama2c_file(tmp_path)
    damage(file)
    with pytest.raises(ModelError) as caught:
        read_tokenizer(file)
    assert str(file) in str(caught.value)
    assert "expected: score, length and bytes" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "found"),
    [
        ("tokenizer.json", b"{}", "is no tokeniser that lotune knows"),
        ("tokenizer.json", b'{"model": {"type": "Nothing"}}', "is damaged"),
        ("tokenizer.json", b"{", "cannot be read"),
        ("tokenizer.model", b"\x0a\x05\x0a\xff\xff", "is damaged"),
        ("tokenizer.model", b"\x80\x04\x95cos\nsystem", "is no tokeniser that lotune knows"),
        ("tokenizer.model", b"IQ== 0\nIg== 7\n", "have gaps"),
        ("tokenizer.model", b"IQ== 0\nnothing here\n", "line 2"),
        ("encoder.json", b'{"a": 0}', "has no vocab.bpe beside it"),
        ("vocab.json", b'{"a": "b"}', "has no merges.txt beside it"),
    ],
)
def test_damaged_tokenizers_are_refused(name: str, content: bytes, found: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError) as caught:
        read_tokenizer(tmp_path / name)
    assert found in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tokenizer.model").write_bytes(b"\x0a\x05\x0a\x01a\x18\x01")
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ModelError, match=r"pip install '\.\[convert\]'"):
        read_tokenizer(tmp_path / "tokenizer.model")


def test_a_folder_is_searched(tmp_path: Path, reference_data: Path) -> None:
    with pytest.raises(ModelError, match="has no tokeniser"):
        read_tokenizer(tmp_path)
    for name in ("encoder.json", "vocab.bpe"):
        shutil.copy(reference_data / "tokenizers" / "gpt2" / name, tmp_path / name)
    shutil.copy(tmp_path / "encoder.json", tmp_path / "vocab.json")
    shutil.copy(tmp_path / "vocab.bpe", tmp_path / "merges.txt")
    assert layout_of(tmp_path / "vocab.json").name == "GPT-2's byte pairs"
    assert ids_of(read_tokenizer(tmp_path / "vocab.json")[0], "Hello world") == [15496, 995]
