"""What the embedded model is made from, and the model itself where its weights are there."""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal
from fractions import Fraction
from importlib.resources import files
from pathlib import Path

import pytest

from lotune.data.examples import Example
from lotune.data.templates import TEMPLATES
from lotune.nano.corpus_generator import EQUATIONS, MIXTURE, documents, tokenizer_texts
from lotune.tasks.arithmetic.problem_types import recognise
from lotune.tasks.task import Task

COUNT = 4000


ASKED = (
    "Repeat: ", "Copy this: ", "重复：", "抄写：", "Without blanks: ", "去掉空格：", "Number the list: ", "编号：",
)  # fmt: skip


@pytest.fixture(scope="module")
def made() -> list[Example]:
    return list(documents(COUNT, 5))


def test_the_same_seed_makes_the_same_text() -> None:
    first = list(documents(300, 5))
    assert list(documents(300, 5)) == first
    assert [item.target for item in documents(300, 6)] != [item.target for item in first]
    assert [item.id for item in first] == [str(number) for number in range(300)]


def test_every_sort_has_its_share(made: list[Example]) -> None:
    assert sum(MIXTURE.values()) == pytest.approx(1)
    counts = Counter(example.category for example in made)
    assert set(counts) == set(MIXTURE)
    for sort, share in MIXTURE.items():
        assert abs(counts[sort] / COUNT - share) < 0.004 + 4 * (share / COUNT) ** 0.5


def test_operands_are_not_scored_and_results_are_right(made: list[Example]) -> None:
    checked = Counter[str]()
    for example in made:
        if example.category not in EQUATIONS:
            continue
        assert example.prompt.count("=") == 1
        assert example.prompt.endswith("=" if example.category == "bare" else ("=?", "=:"))
        assert example.target.endswith("\n")
        result = example.target.splitlines()[-1].rpartition("=")[2]
        if (exact := _value(example.prompt.rstrip("=?:"))) is not None and example.category in (
            "sum",
            "product",
            "quotient",
            "small",
        ):
            checked[example.category] += 1
            assert abs(Fraction(Decimal(result)) - exact) <= abs(exact) * Fraction(1, 10**5)
    assert min(checked[kind] for kind in ("sum", "product", "quotient", "small")) > 50


def _value(text: str) -> Fraction | None:
    number = r"(-?\d+(?:\.\d+)?)"
    match = re.fullmatch(rf"{number}([-+*/]){number}", text)
    if match is None:
        return None
    a, b = Fraction(match[1]), Fraction(match[3])
    return {"+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b}[match[2]]()


def test_no_question_of_the_contest_is_among_the_text(made: list[Example]) -> None:
    """Answering the contest's questions is what tuning teaches: neither its problems nor its prompt with one."""
    head, tail = TEMPLATES["alpaca"].without_input.split("{instruction}")
    for example in made:
        text = example.prompt + example.target
        assert "等于多少" not in text or example.category == "instruction"
        if example.category == "instruction":
            asked = text[len(head) : text.index(tail)]
            assert asked.startswith(
                (
                    "Repeat: ",
                    "Copy this: ",
                    "重复：",
                    "抄写：",
                    "Without blanks: ",
                    "去掉空格：",
                    "Number the list: ",
                    "编号：",
                )
            )
            copied = re.split("：|: ", asked, maxsplit=1)[1]
            bare = asked.startswith(("Without blanks", "去掉空格"))
            if asked.startswith(("Number", "编号")):
                assert re.split("[a-z]", example.target.partition(tail)[2])[1:] == copied.split(", ")
            else:
                assert example.target.endswith(copied.replace(" ", "") if bare else copied)
            assert recognise(asked) is None
        for line in text.splitlines():
            assert recognise(line) is None


def test_a_reading_document_asks_every_question_of_its_passage(made: list[Example]) -> None:
    readings = [example for example in made if example.category in ("reading", "contrast")]
    for example in readings:
        passage, _, asked = (example.prompt + example.target).partition("### Response:")
        first, *further = asked.split("\n\n### Input:\n")
        answers = [first, *(item.split("\n\n### Response:")[1] for item in further)]
        assert all(answer.strip() for answer in answers)
        assert all(answer in passage for answer in answers)
    chinese = sum(bool(re.search("[一-鿿]", example.target)) for example in readings)
    assert 0.45 < chinese / len(readings) < 0.75
    assert all(turn.answer in example.prompt for example in readings for turn in example.earlier_turns)


def test_a_list_comes_again_in_another_order(made: list[Example]) -> None:
    lists = [example for example in made if example.category == "list"]
    assert len(lists) > 20
    changed = 0
    for example in lists:
        once, again = (re.findall(r"(.+?)[:：] ?(.+?)[.。] ?", text) for text in (example.prompt, example.target))
        assert len(dict(once)) == len(once) == len(again) > 2
        assert dict(once) == dict(again)
        changed += once != again
    assert changed > len(lists) / 2


def test_the_tokeniser_s_texts_hold_words_and_no_equations() -> None:
    texts = list(tokenizer_texts(300, 1))
    assert any("等于多少" in text for text in texts)
    assert any("### Response:" in text for text in texts)
    assert not any("=?" in text for text in texts)


@pytest.fixture(scope="module")
def weights() -> Path:
    folder = Path(str(files("lotune.nano").joinpath("weights")))
    if not (folder / "model.safetensors").exists():
        pytest.skip("the embedded model's weights are not there")
    return folder


def test_the_embedded_model_is_small_and_complete(weights: Path) -> None:
    from safetensors import safe_open
    from transformers import AutoTokenizer

    with safe_open(weights / "model.safetensors", framework="pt") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    parameters = 0
    for shape in shapes.values():
        size = 1
        for length in shape:
            size *= length
        parameters += size
    assert parameters <= 12_000_000
    assert sum(path.stat().st_size for path in weights.iterdir()) <= 25_000_000
    config = json.loads((weights / "config.json").read_text())
    assert config["model_type"] == "llama"
    assert config["max_position_embeddings"] >= 1024
    tokenizer = AutoTokenizer.from_pretrained(weights)
    assert len(tokenizer) <= config["vocab_size"]
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    for text in ("0123456789", "-6797.66+280.27=?", "2024年12月"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == text
        digits = [tokenizer.decode([id]) for id in ids]
        assert [piece for piece in digits if any(c.isdigit() for c in piece)] == [c for c in text if c.isdigit()]


def test_the_embedded_model_has_its_card(weights: Path) -> None:
    assert "license" in (weights / "README.md").read_text(encoding="utf-8").lower()


@pytest.mark.slow
def test_the_longest_training_answers_fit_the_embedded_model(weights: Path) -> None:
    """A question, its working and the end stay within the context, and an answer within its task's limit."""
    from transformers import AutoTokenizer

    from lotune.data.tokenized import encode_row
    from lotune.tasks.arithmetic.problem_types import generate_rows
    from lotune.tasks.arithmetic.task import ArithmeticTask

    task: Task = ArithmeticTask()
    tokenizer = AutoTokenizer.from_pretrained(weights)
    context = json.loads((weights / "config.json").read_text())["max_position_embeddings"]
    rows = ((str(number), row) for number, row in enumerate(generate_rows(2000, 4, "deduplicated", "zh"), 1))
    for example in task.examples(rows, training=True):
        row = encode_row(tokenizer, example)
        assert len(row.token_ids) <= context
        assert len(row.token_ids) - row.completion_start <= task.max_new_tokens


def test_a_heading_is_the_first_line_of_the_working_and_ends_there(made: list[Example]) -> None:
    headings = [example for example in made if example.category == "heading"]
    assert headings
    for example in headings:
        first, second = (example.prompt + example.target).splitlines()
        assert first.endswith("=:")
        if match := re.fullmatch(r"(-?[\d.]+)\*(-?[\d.]+)=:", first):
            asked = [int(word.replace(".", "")) for word in match.groups()]
            copied = re.findall(r"[+-]\d+", second.partition("*")[0])
            assert second.startswith("=") or [int(word) for word in copied] == asked
