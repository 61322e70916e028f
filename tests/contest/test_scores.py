"""The published rows come out of the formula."""

import pytest

from lotune.contest.scores import (
    PUBLISHED,
    SCORE_RULES,
    PublishedRow,
    contest_score,
    published_rank,
    score,
)
from lotune.errors import SettingsError
from lotune.evaluate.parameter_ratio import BASE_TOTALS


@pytest.mark.parametrize("row", PUBLISHED)
def test_every_published_score(row: PublishedRow) -> None:
    assert score("phase1", row.ratio, row.accuracy) == pytest.approx(row.score, abs=1e-8)


def test_the_table() -> None:
    assert len(PUBLISHED) == 20
    assert [published_rank(row.score) for row in PUBLISHED] == list(range(1, 21))
    assert set(BASE_TOTALS) == {"measured", "llama3-8b", "internlm-7b"}
    assert (BASE_TOTALS["llama3-8b"], BASE_TOTALS["internlm-7b"]) == (8_030_000_000, 7_321_000_000)


def test_the_published_ratios_are_counts_over_the_rounded_total() -> None:
    for count, ratio in ((54_525_952, 0.00679028), (13_631_488, 0.00169757), (3_407_872, 0.000424393)):
        assert count / 8_030_000_000 == pytest.approx(ratio, abs=5e-9)


def test_the_rules() -> None:
    assert score("phase1", 0.01, 0.5) == pytest.approx(0.647)
    assert score("phase2", 0.01, 0.5) == pytest.approx(0.62)
    with pytest.raises(SettingsError, match="phase1, phase2"):
        score("phase3", 0.0, 0.0)
    assert list(SCORE_RULES) == ["phase1", "phase2"]


@pytest.mark.parametrize(("rule", "base_total", "is_contest_task", "rank"), [
    ("phase1", "llama3-8b", True, 3),
    ("phase1", "internlm-7b", True, 3),
    ("phase1", "measured", True, None),
    ("phase1", "llama3-8b", False, None),
    ("phase2", "llama3-8b", True, None),
])  # fmt: skip
def test_a_score_has_a_rank_if_it_is_comparable_with_the_published_ones(
    rule: str, base_total: str, is_contest_task: bool, rank: int | None
) -> None:
    result = contest_score(rule, 0.75, base_total, is_contest_task=is_contest_task)
    assert (result.rule, result.value, result.rank) == (rule, 0.75, rank)
    assert (result.published is None) is (rank is None)
