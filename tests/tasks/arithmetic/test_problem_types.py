"""The fourteen kinds: the contest's exact form, both mixes, both languages, the same rows everywhere."""

from __future__ import annotations

import decimal
from collections import Counter
from hashlib import sha256
from itertools import islice
from pathlib import Path
from random import Random

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lotune.errors import SettingsError
from lotune.tasks.arithmetic.problem_types import (
    MIXTURES,
    PROBLEM_TYPES,
    Language,
    Mixture,
    distinct_limit,
    generate_rows,
    problem_type_of,
    recognise,
)

CONTEST = {
    "计算 7904.09 * 9169.76 等于多少？": "7904.09 * 9169.76 = 72478608.3184",
    "计算 -54.75 + 4676.50 等于多少？": "-54.75 + 4676.50 = 4621.75",
    "计算 9577.33 - -3229.72 等于多少？": "9577.33 - -3229.72 = 12807.05",
    "计算 303.41 / -4379.30 等于多少？": "303.41 / -4379.30 = -0.06928276208526476834197246135",
    "解方程 -3x + -45 = 0": "方程的解为：-15.0",
    "计算 6587.05 的平方根？": "√6587.05 = 81.16064317142884741938374165",
    "计算 -721.08 的 0 次方？": "-721.08^0 = 1",
    "计算 268.97 的 5 次方？": "268.97^5 = 1407729510367.2946194257",
    "当 x = 6.99 时，求函数 y = 16x^43 的值": "函数的值为：3.285780438165902935930888960E+37",
    "求以下数据的平均值：[72, 91, 54, 52, 34, 64]": "平均值为 61.166666666666664",
    "一个长方形的长为 84 厘米，宽为 38 厘米，请计算其面积。": "面积为 3192 平方厘米",
    "商品原价为 41 元，打折后的价格为 50 元，请计算打折的折扣比例。": "-21.951219512195124",
    "去年销售额为 88 万元，今年销售额增加了 73%，请计算今年的销售额。": "152.24",
    "某物体的密度为 3 克/立方厘米，体积为 4 立方厘米，请计算该物体的质量。": "12 克",
    "将分数 2/8 进行简化。": "最简化的形式为：1/4",
}


@pytest.mark.parametrize(("problem", "solution"), CONTEST.items())
def test_solutions_have_the_contests_form(problem: str, solution: str) -> None:
    name, operands = recognise(problem) or ("", ())
    assert PROBLEM_TYPES[name].problem_zh(operands) == problem
    assert PROBLEM_TYPES[name].solution(operands) == solution


@pytest.mark.oracle
def test_every_chinese_row_of_the_contest_comes_out(reference_data: Path) -> None:
    lines = (reference_data / "contest" / "math-300.jsonl").read_bytes().splitlines()
    rows = [orjson.loads(line) for line in lines]
    kinds = Counter(problem_type_of(row["problem"]) for row in rows)
    assert kinds["english"] == 6
    assert kinds["other"] == 0
    for row in rows:
        if result := recognise(row["problem"]):
            assert PROBLEM_TYPES[result[0]].solution(result[1]) == row["solution"]
            assert PROBLEM_TYPES[result[0]].problem_zh(result[1]) == row["problem"]
    assert len(rows) - kinds["english"] == 294


@pytest.mark.parametrize("name", PROBLEM_TYPES)
@settings(deadline=None)
@given(seed=st.integers(0, 2**32))
def test_a_question_gives_its_operands_back(name: str, seed: int) -> None:
    kind = PROBLEM_TYPES[name]
    operands = kind.draw(Random(seed))
    for problem in (kind.problem_zh(operands), kind.problem_en(operands)):
        assert recognise(problem) == (name, operands)
    assert kind.result(*operands) in kind.solution(operands, "en")


@settings(deadline=None)
@given(
    st.text(max_size=60)
    | st.from_regex(r"(计算|解方程|将分数|What is) [-0-9./x+ ]+(等于多少？|的 0 次方？|进行简化。|\?)?")
)
def test_any_text_has_a_kind(problem: str) -> None:
    assert problem_type_of(problem) in {*PROBLEM_TYPES, "english", "other"}
    assert (recognise(problem) is None) == (problem_type_of(problem) in ("english", "other"))


@pytest.mark.parametrize("problem", ["计算 1.00 / 0.00 等于多少？", "解方程 0x + 3 = 0", "计算 0.00 的 0 次方？"])
def test_questions_without_an_answer_are_not_recognised(problem: str) -> None:
    assert recognise(problem) is None
    assert problem_type_of(problem) == "other"


@pytest.mark.parametrize("mixture", MIXTURES)
@pytest.mark.parametrize("language", ["zh", "en", "both"])
def test_the_mix_has_its_shares(mixture: Mixture, language: Language) -> None:
    rows = 12_000
    counts = Counter(
        problem_type_of(row["problem"]) for row in generate_rows(rows, 7, mixture, language, distinct=False)
    )
    total = sum(MIXTURES[mixture].values())
    for name, share in MIXTURES[mixture].items():
        expected = rows * share / total
        assert abs(counts[name] - expected) < 5 * max(expected, 1) ** 0.5
    assert sum(counts.values()) == rows


def test_distinct_rows_are_distinct_even_if_a_type_is_used_up() -> None:
    fractions = []
    for seed in range(5):
        rows = list(generate_rows(distinct_limit("raw"), seed, "raw"))
        assert len({row["problem"] for row in rows}) == len(rows)
        fractions.append(sum(row["problem"].startswith("将分数") for row in rows))
    assert max(fractions) == 45


def test_more_distinct_rows_than_there_are_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"800,000 distinct rows\n.*551,410 at most"):
        generate_rows(800_000, 0)


def test_the_raw_mix_repeats_rows_and_streams() -> None:
    rows = [row["problem"] for row in islice(generate_rows(800_000, 0, "raw", distinct=False), 5_000)]
    assert len(set(rows)) < len(rows)


def test_the_same_seed_gives_the_same_rows_in_every_version() -> None:
    digest = sha256()
    for row in generate_rows(2_000, 42, language="both"):
        digest.update(orjson.dumps(row))
    assert digest.hexdigest() == "285643583b4009ea0fc9e1e5a514288e0c55650be4f430209ad4d92f3c7f42c6"
    assert list(generate_rows(50, 1)) != list(generate_rows(50, 2))


def test_the_callers_decimal_context_does_not_matter() -> None:
    expected = list(generate_rows(300, 5))
    with decimal.localcontext() as context:
        context.clear_flags()
        context.prec = 3
        context.rounding = decimal.ROUND_UP
        assert list(generate_rows(300, 5)) == expected
        assert context.flags[decimal.Inexact] == 0


def test_both_languages_name_the_same_unit_of_sales() -> None:
    """One wan is ten thousand."""
    chinese, english = PROBLEM_TYPES["sales"].zh, PROBLEM_TYPES["sales"].en
    assert "万元" in chinese
    assert "ten thousand yuan" in english
    assert recognise(english.format("50", "10")) == ("sales", ("50", "10"))
