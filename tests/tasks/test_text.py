"""Plain texts: how they are read and shortened, and that the likelihood of every token of them is measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import call
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.corpus import Corpus
from lotune.data.curation import remove_contaminated
from lotune.data.examples import Example
from lotune.errors import DataError, SettingsError
from lotune.evaluate.facts import facts_of
from lotune.evaluate.perplexity import score_texts, summarise
from lotune.evaluate.predict import PromptTooLongError, fit, predict, read_predictions
from lotune.evaluate.reference_bits import REFERENCE_ONLY
from lotune.generate.answering_model import AnsweringModel
from lotune.tasks.registry import TEXT, build_task, entry_named, task_settings
from lotune.tasks.replay import replay_rows_of_file, without_evaluated
from lotune.tasks.task import Row
from lotune.tasks.text import TEXT_CHARACTERS, TextTask, shorten

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

TEXTS = ["Kunming is in Yunnan.", "昆明在云南。", "a", "two\n\nparagraphs of one text", "Łódź < & >"]


def examples_of(*texts: str) -> list[Example]:
    rows: list[tuple[str, Row]] = [(f"t{number}", {"text": text}) for number, text in enumerate(texts)]
    return list(TextTask().examples(rows, training=False))


@given(text=st.text("ab ,.数学", max_size=60), characters=st.integers(2, 40))
def test_a_shortened_text_is_a_beginning_of_at_least_half_the_length(text: str, characters: int) -> None:
    short = shorten(text, characters)
    assert text.startswith(short)
    assert len(short) == len(text) if len(text) <= characters else characters // 2 <= len(short) <= characters
    rest = text[len(short) :]
    assert not rest or rest[0] == " " or " " not in text[characters // 2 : characters + 1]


def test_jsonl_txt_and_folders_are_read_as_a_corpus_has_them(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    lines = [json.dumps({"text": text, "id": 3}) for text in (*TEXTS, " ")]
    (folder / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "b.txt").write_text("A text\n\nof a file.\n", encoding="utf-8")
    rows = TextTask().read(folder).rows
    assert [row for _, row in rows] == [{"text": article.target} for article in Corpus(folder).articles()]
    assert [id for id, _ in rows] == [*(f"texts/a.jsonl:{number}" for number in range(1, 6)), "texts/b.txt"]
    assert TextTask().read(folder / "a.jsonl").rows[0] == ("a.jsonl:1", {"text": TEXTS[0]})


@pytest.mark.parametrize("name", ["none.jsonl", "rows.csv"])
def test_what_is_no_corpus_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text\na\n", encoding="utf-8")
    with pytest.raises(DataError, match=name):
        TextTask().read(tmp_path / name)


@pytest.mark.parametrize("row", [{"text": " \n"}, {"text": 1}, {"txt": "a"}, {}])
@pytest.mark.parametrize("training", [True, False])
def test_a_row_without_text_is_refused(row: Row, training: bool) -> None:
    with pytest.raises(DataError, match="has no text") as error:
        list(TextTask().examples([("row 1", row)], training=training))
    assert error.value.where == "row 1"


def test_targets_are_short_and_references(tmp_path: Path) -> None:
    [example] = examples_of("word " * 200)
    assert example.prompt == ""
    assert example.target == example.references[0] == ("word " * 80).strip()
    assert len(example.target) <= TEXT_CHARACTERS
    file = tmp_path / "long.txt"
    file.write_text("word " * 200, encoding="utf-8")
    [replayed] = replay_rows_of_file(None, file, 5, 1)
    assert replayed.target == example.target


def test_the_bits_are_those_of_the_perplexity_of_the_same_texts(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    answering, examples, out = AnsweringModel(tiny_llama, byte_tokenizer), examples_of(*TEXTS), tmp_path / "base.jsonl"
    task = TextTask()
    found = list(predict(task, examples, answering, batch_tokens=300, out=out, context=256))
    assert all((one.text, one.finish_reason) == ("", REFERENCE_ONLY) for one in found)
    measured = task.metrics([one.score for one in found])
    assert set(measured) == {"bits_per_byte", "unjudgeable"}
    losses = list(score_texts(tiny_llama, byte_tokenizer, examples, context=256, batch_tokens=300))
    assert measured["bits_per_byte"] == pytest.approx(summarise(losses)["bits_per_byte"], rel=1e-5)
    assert read_predictions(out) == found
    stored = list(predict(task, examples, answering, batch_tokens=300, out=out, context=256))
    assert {one.example_id: one for one in stored} == {one.example_id: one for one in found}
    by_id = {one.example_id: one.score.scores["bits_per_byte"] for one in found}
    for loss in losses:
        assert by_id[loss.id] == pytest.approx(loss.nats / math.log(2) / loss.bytes, rel=1e-5)


def test_a_text_has_to_leave_room_for_the_token_before_it(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    task = TextTask()
    [fits], [fills] = examples_of("x" * 39), examples_of("x" * 40)
    fitted = fit(task, fits, byte_tokenizer, 40, "stop")
    assert fitted is not None
    assert fitted.ids == (byte_tokenizer.eos_token_id,)
    assert fit(task, fills, byte_tokenizer, 40, "wrong") is None
    assert fit(task, fills, byte_tokenizer, 40, "truncate") is None
    with pytest.raises(PromptTooLongError, match="row t0"):
        fit(task, fills, byte_tokenizer, 40, "stop")


def test_a_text_that_is_too_long_is_left_out(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    answering, examples = AnsweringModel(tiny_llama, byte_tokenizer), examples_of("x" * 300, "short")
    found = list(predict(TextTask(), examples, answering, batch_tokens=300, out=None, context=256))
    assert TextTask().metrics([one.score for one in found])["unjudgeable"] == 1.0


def test_facts_name_no_answers() -> None:
    settings = task_settings(TEXT)
    facts = facts_of(settings, build_task(settings))
    assert (facts.scorer, facts.template, facts.protocol) == (
        "bits-per-byte",
        "plain",
        "the likelihood of the reference",
    )


def test_texts_without_prompt_are_not_the_same_text() -> None:
    evaluated, other = examples_of("A text that an evaluation set holds."), examples_of("Another text.")
    same = examples_of("A text that an  evaluation set holds.")
    remaining, report = remove_contaminated([*other, *same], {"test": evaluated})
    assert list(remaining) == other
    assert (report.sets["test"].exact, report.sets["test"].normalised, report.sets["test"].seen) == (0, 1, 1)
    assert without_evaluated([*other, *same], {"ability": evaluated}) == (other, 1)


def test_a_misspelt_task_names_the_nearest_and_all() -> None:
    with pytest.raises(SettingsError, match="txet") as error:
        entry_named("txet")
    assert error.value.remedy == "did you mean text?"
    assert error.value.expected.endswith("copying, equations, text, text_continuation")


def test_init_takes_texts_where_they_are_named(tmp_path: Path) -> None:
    file, recipe = tmp_path / "texts.jsonl", tmp_path / "texts.yaml"
    file.write_text("".join(json.dumps({"text": f"Text {n}."}) + "\n" for n in range(60)), encoding="utf-8")
    call("init", file, "--task", "text", "--out", recipe)
    assert "name: text" in recipe.read_text(encoding="utf-8")
    output = call("init", file, "--task", "text", "--column", "text=text", "--out", recipe, "--force", status=2).stderr
    assert "text has no role text" in output
