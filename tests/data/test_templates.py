"""Templates: the exact texts, cutting, and the template that travels with a checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from command_line import save_template
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.conversation import Conversation
from lotune.data.examples import Example
from lotune.data.templates import TEMPLATE_FILE, TEMPLATES, Template, load_template, template_named
from lotune.data.tokenized import encode_row, encode_text
from lotune.errors import ModelError, SettingsError
from lotune.model.convert.tokenizer_files import read_tokenizer

every_template = pytest.mark.parametrize("template", TEMPLATES.values(), ids=list(TEMPLATES))


def test_exact_texts() -> None:
    assert TEMPLATES["alpaca"].render("计算 1 + 1 等于多少？") == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        "\n\n### Instruction:\n计算 1 + 1 等于多少？\n\n### Response:"
    )
    assert TEMPLATES["alpaca"].render("Add.", "1 and 2") == (
        "Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        "response that appropriately completes the request."
        "\n\n### Instruction:\nAdd.\n\n### Input:\n1 and 2\n\n### Response:"
    )
    assert TEMPLATES["retention"].render("P.", "Q?") == (
        "Read the passage and answer the question below.\n\n### Instruction:\nP.\n\n### Input:\nQ?\n\n### Response:"
    )
    assert TEMPLATES["plain"].render("a", "b") == "ab"
    assert TEMPLATES["qa"].render("Who?") == "Who?##"
    assert TEMPLATES["internlm"].render("Hi") == "<|User|>:Hi<eoh>\n<|Bot|>:"
    assert TEMPLATES["internlm"].render("Choose.", "Question: 1?\nA.1") == (
        "<|User|>:Choose.\nQuestion: 1?\nA.1<eoh>\n<|Bot|>:"
    )
    turns = TEMPLATES["internlm"].render_conversation(Conversation(("Hi", "Bye"), ("Hello",)))
    assert turns == [("<|User|>:Hi<eoh>\n<|Bot|>:", "Hello"), ("\n<|User|>:Bye<eoh>\n<|Bot|>:", "")]
    assert TEMPLATES["internlm"].stop == ("<eoa>", "\n<|User|>:")


@pytest.mark.oracle
@pytest.mark.parametrize("question", ["Who wrote it?", "谁写的？", "谁写的", "2 + 2 =", "in (1999)", "“Hi”"])
def test_the_separator_of_a_question_answering_gpt_is_one_token(question: str, reference_data: Path) -> None:
    tokenizer, _ = read_tokenizer(reference_data / "tokenizers" / "gpt2")
    prompt, answer = TEMPLATES["qa"].render(question), "鲁迅。"
    row = encode_row(tokenizer, Example("1", prompt, answer, (answer,)))
    plain = tokenizer(question)["input_ids"]
    assert list(row.token_ids) == [*plain, 2235, *tokenizer(answer)["input_ids"], 50256]
    assert row.completion_start == len(plain) + 1


@pytest.mark.oracle
def test_the_turns_of_internlm_are_its_tokens(reference_data: Path) -> None:
    import sentencepiece

    file = reference_data / "tokenizers" / "internlm_7b" / "V7_sft.model"
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
    tokenizer, _ = read_tokenizer(file)
    prompt = TEMPLATES["internlm"].render("请选择正确的答案。", "Question: 1 + 1 = ? \nA.1\nB.2")
    ids = encode_text(tokenizer, prompt, first=True)
    assert ids == [theirs.bos_id(), *theirs.encode(prompt)]
    assert ids.count(103_027) == 1  # <eoh>


@every_template
def test_the_name_of_a_template_is_its_key(template: Template) -> None:
    assert TEMPLATES[template.name] is template


@given(st.sampled_from(sorted(TEMPLATES)), st.text(), st.text(), st.text())
def test_parts_make_the_prompt_and_texts_stay_as_they_are(name: str, preamble: str, text: str, more: str) -> None:
    template = dataclasses.replace(TEMPLATES[name], instruction_prefix=preamble)
    prompt = template.render(text, more)
    head, middle, tail = template.parts(text, more)
    assert head + middle + tail == prompt
    assert preamble + text in prompt
    assert more in prompt
    if template.truncatable:
        assert middle == text


@pytest.mark.parametrize("text", ["{input}", "{instruction}", "{", "{0}", r"\boxed{}"])
def test_braces_in_texts_are_literal(text: str) -> None:
    assert TEMPLATES["plain"].render(text, text) == text + text
    assert TEMPLATES["retention"].parts(text, text)[1] == text
    assert TEMPLATES["retention"].parts(text, text)[2] == f"\n\n### Input:\n{text}\n\n### Response:"


def test_the_middle_is_the_passage_or_empty() -> None:
    assert TEMPLATES["alpaca"].parts("a", "b") == (TEMPLATES["alpaca"].render("a", "b"), "", "")
    other = Template("other", "{instruction}", "{instruction} | {input}!", truncatable="input")
    assert other.parts("a", "b") == ("a | ", "b", "!")
    assert other.parts("a") == ("a", "", "")


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(SettingsError, match="did you mean alpaca"):
        template_named("alpacca")
    assert template_named("qa") is TEMPLATES["qa"]


@every_template
def test_templates_travel_with_checkpoints(tmp_path: Path, template: Template) -> None:
    held = dataclasses.replace(template, instruction_prefix="你是专家。 ")
    save_template(tmp_path / "checkpoint", held)
    assert load_template(tmp_path / "checkpoint") == held
    assert load_template(tmp_path / "checkpoint", held) == held


def test_another_template_is_refused_unless_forced(tmp_path: Path) -> None:
    save_template(tmp_path, TEMPLATES["alpaca"])
    with pytest.raises(ModelError, match="trained with the template 'alpaca', but 'plain'"):
        load_template(tmp_path, TEMPLATES["plain"])
    reworded = dataclasses.replace(TEMPLATES["alpaca"], instruction_prefix="Please: ")
    with pytest.raises(
        ModelError, match="another wording of the template 'alpaca': the instruction prefix '', not 'Please: '"
    ):
        load_template(tmp_path, reworded)
    assert load_template(tmp_path, reworded, force=True) == reworded
    renamed = dataclasses.replace(TEMPLATES["alpaca"], name="mine")
    assert load_template(tmp_path, renamed) == TEMPLATES["alpaca"]


def test_folders_without_a_template(tmp_path: Path) -> None:
    assert load_template(tmp_path, TEMPLATES["qa"]) is TEMPLATES["qa"]
    with pytest.raises(ModelError, match="no prompt template"):
        load_template(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"name": "a", "without_input": "", "with_input": 1}'])
def test_damaged_templates(tmp_path: Path, content: str) -> None:
    (tmp_path / TEMPLATE_FILE).write_text(content)
    with pytest.raises(ModelError, match=TEMPLATE_FILE):
        load_template(tmp_path)
