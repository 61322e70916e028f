"""Which configurations have a number of parameters."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotune.evaluate.adapter_layout import lora_layout
from lotune.evaluate.explanations import explain, per_rank
from lotune.model.catalogue import CATALOGUE

LLAMA = CATALOGUE["llama-3-8b"].shape
KINDS = [set for size in range(1, 8) for set in combinations(per_rank(LLAMA), size)]


@given(st.sampled_from(["llama-3-8b", "gpt2", "gemma-3-1b"]), st.integers(1, 64), st.data())
def test_a_configuration_explains_its_own_number(base: str, rank: int, data: st.DataObject) -> None:
    shape = CATALOGUE[base].shape
    kinds = data.draw(st.lists(st.sampled_from(sorted(per_rank(shape))), min_size=1, max_size=3, unique=True))
    count = lora_layout(shape, kinds, rank).count
    assert count is not None
    found = explain(shape, "measured", count)
    assert all(one.parameters == count for one in found.configurations)
    assert all(lora_layout(shape, one.targets, one.rank).count == count for one in found.configurations)
    # A list that is cut off may lack it, as powers of two and few layers come first.
    assert found.more or any((one.rank, set(one.targets)) == (rank, set(kinds)) for one in found.configurations)


def test_two_configurations_of_one_number() -> None:
    found = {(one.rank, one.targets) for one in explain(LLAMA, "claimed", 6_815_744).configurations}
    assert {(16, ("q_proj", "v_proj")), (8, ("q_proj", "k_proj", "v_proj", "o_proj"))} <= found
    assert explain(LLAMA, "claimed", 3_000_000).configurations == ()


def test_simple_ones_come_first_and_the_list_is_bounded() -> None:
    found = explain(LLAMA, "claimed", 64 * sum(per_rank(LLAMA).values()))
    assert len(found.configurations) <= 12
    first = found.configurations[0]
    assert first.rank & (first.rank - 1) == 0
    sizes = [len(one.targets) for one in found.configurations if one.rank & (one.rank - 1) == 0]
    assert sizes == sorted(sizes)
    wide = explain(LLAMA, "claimed", 1, 10**9)
    assert wide.more > 10_000 > len(wide.configurations)


@pytest.mark.parametrize(
    ("ratio", "rank", "targets"),
    [
        ("0.00679028", 64, "q,k,v,o"), ("0.00169757", 16, "q,k,v,o"), ("0.000848785", 8, "q,k,v,o"),
        ("0.000685557", 8, "q,v,o"), ("0.000636589", 12, "q,v"), ("0.000424393", 8, "q,v"),
        ("0.000212196", 4, "q,v"),
    ],
)  # fmt: skip
def test_every_published_ratio_is_explained_by_the_rounded_total(ratio: str, rank: int, targets: str) -> None:
    from lotune.contest.scores import PUBLISHED
    from lotune.evaluate.audit_claims import conventions, read_ratio
    from lotune.model.methods.target_names import read_targets

    claimed = read_ratio(ratio)
    count = lora_layout(LLAMA, read_targets(targets), rank).count
    assert count is not None
    assert {name for name, total in conventions(LLAMA.total).items() if claimed.fits(count, total)} == {"llama3-8b"}
    low, high = claimed.counts(8_030_000_000)
    assert low <= count <= high
    assert float(claimed.value) in {row.ratio for row in PUBLISHED}


def test_these_are_all_published_ratios() -> None:
    from lotune.contest.scores import PUBLISHED

    marks = test_every_published_ratio_is_explained_by_the_rounded_total.pytestmark  # type: ignore[attr-defined]
    assert {float(values[0]) for values in marks[0].args[1]} == {row.ratio for row in PUBLISHED}
