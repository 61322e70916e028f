"""The tokeniser keeps digits and signs apart, gives every text back, and is the same each time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lotune.data.tokenized import encode_text
from lotune.data.tokenizer_training import FORCED_SYMBOLS, LightTokenizer, check_tokenizer, train_tokenizer
from lotune.errors import ModelError, SettingsError
from lotune.tasks.reading.passage_generator import passages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SUM = "计算 -6797.66 - 280.27 等于多少？"


def texts() -> list[str]:
    messages = [
        f"### Input:\n{p['context']}\n{qa['question']}\n### Response:{qa['answers'][0]['text']}"
        for p in passages(300, 0, "both")
        for qa in p["qas"]
    ]
    return [*messages, *[SUM, "解方程 3x + 7 = 0"] * 20]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer") / "new" / "folder"


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    return train_tokenizer(texts(), 1500, folder)


def pieces(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return [tokenizer.decode([id]) for id in tokenizer.encode(text)]


def test_every_digit_and_sign_of_a_sum_is_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, SUM) == [
        *("计", "算", " ", "-", *"6797.66", " ", "-", " ", *"280.27", " ", "等", "于", "多", "少", "？")
    ]


def test_signs_blanks_and_newlines_stand_alone(tokenizer: PreTrainedTokenizerFast) -> None:
    assert pieces(tokenizer, FORCED_SYMBOLS) == list(FORCED_SYMBOLS)
    signs = "!\"$%&'()*+,-./:;<=>?@[\\]^_`{|}~\n\n  \t0123456789"
    assert pieces(tokenizer, signs) == list(signs)
    assert pieces(tokenizer, "a  = b\n\n### ") == ["a", " ", " ", "=", " b", "\n", "\n", "###", " "]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_a_name_is_copied_token_for_token(tokenizer: PreTrainedTokenizerFast, language: str) -> None:
    for paragraph in passages(100, 3, language, "unseen"):  # type: ignore[arg-type]
        context = tokenizer.encode(paragraph["context"])
        for qa in paragraph["qas"]:
            text = qa["answers"][0]["text"]
            if text[0].islower():
                continue
            answer = tokenizer.encode(text)
            assert any(context[start : start + len(answer)] == answer for start in range(len(context)))


@given(prompt=st.from_regex(r"\A[0-9.+*/ -]{0,12}\Z"), answer=st.from_regex(r"\A[0-9.= -]{1,12}\Z"))
@settings(deadline=None)
def test_prompt_and_answer_meet_at_a_token(tokenizer: PreTrainedTokenizerFast, prompt: str, answer: str) -> None:
    assert tokenizer.encode(prompt) + tokenizer.encode(answer) == tokenizer.encode(prompt + answer)


@given(text=st.text())
@settings(deadline=None)
def test_any_text_comes_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "\r\n\t",
        "a .b ,c 's n't",
        "𝟘ⅷ²½",
        "e\u0301 ﬁ \u200b\ufeff",
        "\x00",
        "<|endoftext|>x<|pad|>",
        "龘𠀀😀",
        "①+１２",
    ],
)
def test_odd_texts_come_back(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_the_saved_folder_is_a_complete_tokenizer(tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    from transformers import AutoTokenizer

    assert {file.name for file in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    loaded = AutoTokenizer.from_pretrained(folder)
    assert (loaded.eos_token, loaded.eos_token_id) == ("<|endoftext|>", 0)
    assert (loaded.pad_token, loaded.pad_token_id) == ("<|pad|>", 1)
    assert loaded.bos_token is None
    assert loaded.model_max_length == 1024
    assert loaded.clean_up_tokenization_spaces is False
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.encode(SUM) == tokenizer.encode(SUM)
    assert loaded.decode(loaded.encode("a , b .")) == "a , b ."


def test_the_same_texts_give_the_same_files(tokenizer: PreTrainedTokenizerFast, folder: Path, tmp_path: Path) -> None:
    train_tokenizer(iter(texts()), 1500, tmp_path)
    for file in folder.iterdir():
        assert file.read_bytes() == (tmp_path / file.name).read_bytes()


def test_a_vocabulary_below_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="vocab_size"):
        train_tokenizer(["a"], 200, tmp_path)


def test_check_names_the_mismatch(tokenizer: PreTrainedTokenizerFast) -> None:
    check_tokenizer(tokenizer, len(tokenizer), "mine")
    with pytest.raises(ModelError, match=rf"mine: its tokeniser has {len(tokenizer)} tokens"):
        check_tokenizer(tokenizer, len(tokenizer) - 1, "mine")
    from transformers import PreTrainedTokenizerFast as Fast

    same = Fast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|endoftext|>", pad_token="<|endoftext|>")
    check_tokenizer(same, 2000, "GPT-2 pads with its end")
    with pytest.raises(ModelError, match=rf"only {len(tokenizer)} tokens for the {5 * len(tokenizer)} rows"):
        check_tokenizer(tokenizer, 5 * len(tokenizer), "mine")
    suiting = {"eos_token_id": [7, 0], "bos_token_id": 5, "pad_token_id": 1}
    of_chats = {"eos_token_id": 7, "pad_token_id": 1}
    for special in ({}, {"eos_token_id": None}, suiting, of_chats, {"eos_token_id": 50_256, "pad_token_id": -1}):
        check_tokenizer(tokenizer, 2000, "mine", special)
    for end in (2, [2, 3]):
        with pytest.raises(ModelError, match=r"eos_token_id is 0 in its tokeniser.*pad_token_id is 1 in its tok"):
            check_tokenizer(tokenizer, 2000, "mine", {"eos_token_id": end, "pad_token_id": 0})
    with pytest.raises(ModelError, match="no end-of-text"):
        check_tokenizer(Fast(tokenizer_object=tokenizer.backend_tokenizer), 2000, "mine")


@given(text=st.text() | st.sampled_from([SUM, "a <|endoftext|> b", "\n\n### Response:"]), first=st.booleans())
def test_the_light_tokenizer_is_that_of_transformers(
    tokenizer: PreTrainedTokenizerFast, folder: Path, text: str, first: bool
) -> None:
    light = LightTokenizer(folder)
    assert light.eos_token_id == tokenizer.eos_token_id
    ids = encode_text(tokenizer, text, first)
    assert encode_text(light, text, first) == ids
    assert light.decode([*ids, light.eos_token_id]) == tokenizer.decode([*ids, light.eos_token_id])


@pytest.mark.parametrize("missing", ["tokenizer.json", "tokenizer_config.json"])
def test_the_light_tokenizer_names_the_folder_of_a_damaged_one(folder: Path, tmp_path: Path, missing: str) -> None:
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / missing).write_text("{")
    with pytest.raises(ModelError, match="copy: its tokeniser cannot be read"):
        LightTokenizer(tmp_path / "copy")
