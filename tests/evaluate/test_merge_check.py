import copy
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from lotune.errors import CheckError
from lotune.evaluate import logit_comparison, merge_check
from lotune.evaluate.logit_comparison import best_two_gap, in_float64, largest_difference
from lotune.evaluate.merge_check import MergeCheck, MergeCheckRow, check_saved, compare_merged
from lotune.model.adapters import add_adapter
from lotune.model.checkpoints import load_adapter, merge, save_adapter, save_model
from lotune.model.loading import LoadedModel, cast_parameters, load_model
from lotune.model.methods.lora import LoraSettings
from lotune.model.new_models import new_llama
from lotune.model.settings import BaseSettings

SHAPE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    "bos_token_id": None,
    "eos_token_id": 0,
}
NEW_TOKENS = 6
Trio = tuple[Any, LlamaForCausalLM, LlamaForCausalLM]


@pytest.fixture
def trio(tmp_path: Path) -> Trio:
    """Adapted, merged and saved: float32 models of one random adapter, the last read back from a bfloat16 folder."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        llama = new_llama(SHAPE).eval()
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer(models.WordLevel({f"w{n}": n for n in range(64)}, unk_token="w0")),
            eos_token="w0",
        )
        tuned = add_adapter(copy.deepcopy(llama), LoraSettings(rank=2), seed=1)
        for parameter in tuned.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
    save_adapter(tuned, tmp_path / "adapter")
    base = LoadedModel("tiny", llama, tokenizer, None, torch.float32)
    merged: Any = merge(base, tmp_path / "adapter")
    save_model(merged, tokenizer, tmp_path / "merged", torch.bfloat16)
    saved: Any = load_model(BaseSettings(model=str(tmp_path / "merged"), dtype="float32"), "cpu").model
    return load_adapter(base, tmp_path / "adapter"), merged, saved


@pytest.fixture
def questions() -> list[MergeCheckRow]:
    """Rows of 5 to 16 tokens."""
    generator = torch.Generator().manual_seed(4)
    lengths = torch.randint(5, 17, (12,), generator=generator).tolist()
    return [MergeCheckRow(torch.randint(1, 64, (n,), generator=generator).tolist(), n - 3) for n in lengths]


@torch.inference_mode()
def greedy(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
    """The plainest greedy decoding: one row at a time, everything computed anew for each token."""
    answers: list[list[int]] = []
    for prompt in prompts:
        answer: list[int] = []
        while len(answer) < max_new_tokens and (not answer or answer[-1] != 0):
            ids = torch.tensor([[*prompt, *answer]])
            answer.append(int(model(input_ids=ids, use_cache=False).logits[0, -1].argmax()))
        answers.append(answer)
    return answers


def judge(row: int, answer: Sequence[int]) -> tuple[str, bool | None]:
    """A row is right when its last token is even."""
    return " ".join(map(str, answer)), answer[-1] % 2 == 0


def check(trio: Trio, questions: Sequence[MergeCheckRow], **changes: Any) -> MergeCheck:
    """Both comparisons, with `changes` of their arguments."""
    adapted, merged, saved = trio
    shared = {"greedy": greedy, "max_new_tokens": NEW_TOKENS, "on_device": nullcontext}
    batches = {key: changes.pop(key) for key in ("batch_tokens",) if key in changes}
    for key in set(shared) & set(changes):
        shared[key] = changes.pop(key)
    agreement = compare_merged(adapted, merged, questions, **shared, **batches)
    written: dict[str, Any] = {"saved_dtype": torch.bfloat16, "judge": judge}
    return check_saved(merged, saved, questions, agreement, **shared, **(written | changes))


def broken(model: LlamaForCausalLM, by: float) -> LlamaForCausalLM:
    copied = copy.deepcopy(model)
    copied.model.layers[1].self_attn.v_proj.weight.data[3] += by
    return copied


def test_a_good_merge_passes(trio: Trio, questions: list[MergeCheckRow]) -> None:
    result = check(trio, questions, batch_tokens=24)
    assert result.passed
    assert 0 < result.max_logit_difference < 1e-4
    assert (result.rows, result.judged, result.greedy_differences, result.saved_dtype) == (12, 12, 0, "bfloat16")
    assert 0 <= result.verdicts_changed <= result.texts_changed


def test_the_batches_do_not_matter(trio: Trio, questions: list[MergeCheckRow]) -> None:
    adapted, merged, _ = trio
    other = broken(merged, 0.1)
    rows = [question.tokens for question in questions]
    one = largest_difference(adapted, other, rows, 1)
    many = largest_difference(adapted, other, rows, 10_000)
    assert one == pytest.approx(many, abs=1e-5)
    alone = [(adapted(torch.tensor([q.tokens])).logits - other(torch.tensor([q.tokens])).logits) for q in questions]
    assert one == pytest.approx(max(float(gap.abs().max()) for gap in alone), abs=1e-5)


@pytest.mark.parametrize("by", [0.01, float("nan")])
def test_a_broken_merge_is_caught(by: float, trio: Trio, questions: list[MergeCheckRow]) -> None:
    with pytest.raises(CheckError, match="merged and adapted logits differ by"):
        check((trio[0], broken(trio[1], by), trio[2]), questions)


@pytest.mark.parametrize(("in_float64", "passes"), [(1e-5, True), (2e-4, False), (float("nan"), False)])
def test_float64_decides_if_float32_rounds_too_much(
    in_float64: float, passes: bool, trio: Trio, questions: list[MergeCheckRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    returned = {torch.float32: 3e-4, torch.float64: in_float64}
    before = [copy.deepcopy(model.state_dict()) for model in trio]

    def difference(first: Any, second: Any, rows: Any, batch_tokens: int, on_device: Any, *_: Any) -> float:
        seen = set()
        for model in (first, second):
            with on_device(model):
                seen |= {weight.dtype for weight in model.parameters()}
        [dtype] = seen
        return returned[dtype]

    monkeypatch.setattr(merge_check, "largest_difference", difference)
    if passes:
        result = check(trio, questions)
        assert (result.max_logit_difference, result.max_logit_difference_float64) == (3e-4, in_float64)
    else:
        with pytest.raises(CheckError, match=f"differ by {in_float64:.3g}"):
            check(trio, questions)
    for model, old in zip(trio, before, strict=True):
        assert {weight.dtype for weight in model.parameters()} == {torch.float32}
        assert all(torch.equal(weight, old[name]) for name, weight in model.state_dict().items())


def test_only_rows_that_differ_too_much_are_compared_in_float64(
    trio: Trio, questions: list[MergeCheckRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = {
        tuple(question.tokens): largest_difference(trio[0], trio[1], [question.tokens], 1) for question in questions
    }
    monkeypatch.setattr(merge_check, "TOLERANCE", sorted(alone.values())[len(alone) // 2])
    asked: list[set[tuple[int, ...]]] = []

    def noting(first: Any, second: Any, rows: Sequence[Sequence[int]], *rest: Any) -> float:
        asked.append(set(map(tuple, rows)))
        return largest_difference(first, second, rows, *rest)

    monkeypatch.setattr(merge_check, "largest_difference", noting)
    result = check(trio, questions, batch_tokens=1)
    assert result.max_logit_difference == max(alone.values()) > merge_check.TOLERANCE
    assert asked == [set(alone), {row for row, gap in alone.items() if gap > merge_check.TOLERANCE}]
    assert 0 < len(asked[1]) < len(asked[0])


def test_float64_detects_a_broken_merge(trio: Trio, questions: list[MergeCheckRow]) -> None:
    adapted, merged, _ = trio
    rows, exactly = [question.tokens for question in questions], partial(in_float64, on_device=nullcontext)
    difference = largest_difference(adapted, merged, rows, 999, exactly)
    assert 0 < difference < 1e-5
    assert largest_difference(adapted, broken(merged, 0.01), rows, 999, exactly) > 1e-4


def test_models_are_on_the_device_one_at_a_time(
    trio: Trio, questions: list[MergeCheckRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    placed: list[Any] = []

    @contextmanager
    def place(model: Any) -> Iterator[None]:
        assert not placed or placed[-1] is None, "another model is still there"
        placed.append(model)
        yield
        placed.append(None)

    def asked(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        assert placed[-1] is model
        return greedy(model, prompts, max_new_tokens)

    monkeypatch.setattr(logit_comparison, "MAX_HELD_LOGITS", 1000)
    result = check(trio, questions, batch_tokens=24, on_device=place, greedy=asked)
    assert result.max_logit_difference == check(trio, questions, batch_tokens=24).max_logit_difference
    assert placed.count(trio[0]) == placed.count(trio[1]) > 2  # logits in parts, then the answers
    assert placed.count(trio[2]) == 1


def test_a_forgotten_merge_is_caught(trio: Trio, questions: list[MergeCheckRow]) -> None:
    base = copy.deepcopy(trio[0]).unload()
    with pytest.raises(CheckError, match="logits differ"):
        check((trio[0], base, trio[2]), questions)


def test_saved_weights_must_be_the_merged_ones_rounded(trio: Trio, questions: list[MergeCheckRow]) -> None:
    with pytest.raises(CheckError, match=r"layers.1.self_attn.v_proj.weight is not the merged weight rounded"):
        check((trio[0], trio[1], broken(trio[2], 0.5)), questions)
    exact = check((trio[0], trio[1], trio[1]), questions, saved_dtype=torch.float32)
    assert (exact.texts_changed, exact.verdicts_changed) == (0, 0)


def test_answers_may_part_at_a_tie_only(
    trio: Trio, questions: list[MergeCheckRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    def parting(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        answers = greedy(model, prompts, max_new_tokens)
        return [[*answers[0][:2], 63 - answers[0][2]], *answers[1:]] if model is trio[1] else answers

    with pytest.raises(CheckError, match="row 0: the answers differ at token 2"):
        check(trio, questions, greedy=parting)
    monkeypatch.setattr(merge_check, "best_two_gap", lambda model, *_: 1e-5 if model is trio[1] else 2e-4)
    assert check(trio, questions, greedy=parting).greedy_differences == 1


def test_the_adapted_model_answers_the_first_rows_alone(
    trio: Trio, questions: list[MergeCheckRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, int]] = []

    def counting(model: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[list[int]]:
        asked.append((model, len(prompts)))
        return greedy(model, prompts, max_new_tokens)

    complete = check(trio, questions)
    monkeypatch.setattr(merge_check, "ANSWERED", 5)
    assert check(trio, questions, greedy=counting) == complete
    assert asked == [(trio[0], 5), (trio[1], 12), (trio[2], 12)]


def test_the_gap_is_that_of_the_two_best_logits(trio: Trio) -> None:
    logits = trio[1](torch.tensor([[5, 6, 7]])).logits[0, -1].sort().values
    assert best_two_gap(trio[1], [5, 6, 7]) == pytest.approx(float(logits[-1] - logits[-2]), abs=1e-6)


@pytest.mark.parametrize(
    ("rows", "changed", "passed"), [(300, 3, True), (300, 4, False), (199, 50, True), (200, 3, False)]
)
def test_rounding_may_change_one_verdict_in_a_hundred(rows: int, changed: int, passed: bool) -> None:
    before: list[tuple[str, bool | None]] = [("a", True)] * rows + [("unjudgeable", None)] * 7
    after: list[tuple[str, bool | None]] = [("b", False)] * changed + [("c", True)] * 5 + before[changed + 5 :]
    result = merge_check._record((1e-5, None), 0, torch.bfloat16, before, after)
    assert (result.texts_changed, result.verdicts_changed, result.passed) == (changed + 5, changed, passed)
    assert result.judged == rows


def test_rounding_is_reported_from_the_models(trio: Trio, questions: list[MergeCheckRow]) -> None:
    coarse = copy.deepcopy(trio[1])
    for parameter in coarse.parameters():
        parameter.data = parameter.data.to(torch.float8_e4m3fn).float()
    result = check((trio[0], trio[1], coarse), questions, saved_dtype=torch.float8_e4m3fn)
    answers = [
        [judge(0, answer) for answer in greedy(model, [q.tokens[: q.prompt_tokens] for q in questions], 6)]
        for model in (trio[1], coarse)
    ]
    assert result.texts_changed == sum(a[0] != b[0] for a, b in zip(*answers, strict=True)) > 0
    assert result.verdicts_changed == sum(a[1] != b[1] for a, b in zip(*answers, strict=True))


def test_models_that_cannot_be_compared_are_refused(trio: Trio, questions: list[MergeCheckRow]) -> None:
    with pytest.raises(CheckError, match="no rows"):
        check(trio, [])
    with pytest.raises(CheckError, match=r"the merged model has torch\.bfloat16 weights"):
        check((trio[0], cast_parameters(trio[1], torch.bfloat16), trio[2]), questions)  # type: ignore[arg-type]
    trio[0].train()
    with pytest.raises(CheckError, match="training mode"):
        check(trio, questions)


def test_the_check_also_generates_in_the_reduced_dtype_of_the_evaluation(
    trio: Trio, questions: list[MergeCheckRow]
) -> None:
    assert check(copy.deepcopy(trio), questions).asked is None
    adapted, merged, saved = trio
    plain = greedy(merged, [question.tokens[: question.prompt_tokens] for question in questions], NEW_TOKENS)
    result = check((adapted, merged, saved), questions, asked_dtype=torch.bfloat16).asked
    assert result is not None
    assert next(saved.parameters()).dtype == torch.bfloat16, "asked in the arithmetic of the evaluation"
    reduced = greedy(saved, [question.tokens[: question.prompt_tokens] for question in questions], NEW_TOKENS)
    assert result.texts_changed == sum(item != other for item, other in zip(plain, reduced, strict=True))
    assert result.dtype == "bfloat16"
    assert 0 < result.logit_difference < merge_check.MAX_REDUCED_DIFFERENCE


def test_a_format_that_computes_something_else_stops(
    trio: Trio, questions: list[MergeCheckRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merge_check, "MAX_REDUCED_DIFFERENCE", 1e-9)
    with pytest.raises(CheckError, match=r"(?s)in bfloat16 the logits differ by .*evaluate\.dtype=float32"):
        check(trio, questions, asked_dtype=torch.bfloat16)


TEXTS = st.lists(st.tuples(st.sampled_from(["1", "2", "1.0", ""]), st.sampled_from(["1", "2", "1.0", ""])), max_size=8)


@given(TEXTS, st.sets(st.sampled_from(["1", "2", "1.0", ""])), st.sets(st.integers(0, 7)))
def test_another_scorer_needs_only_the_changed_texts(
    texts: list[tuple[str, str]], right: set[str], unjudgeable: set[int]
) -> None:
    def verdict(row: int, text: str) -> bool | None:
        return None if row in unjudgeable else text in right

    def record(judge: Callable[[int, str], bool | None]) -> MergeCheck:
        sides = [[(text, judge(row, text)) for row, text in enumerate(side)] for side in zip(*texts, strict=True)]
        return merge_check._record((0.0, None), 0, torch.bfloat16, *(sides or ([], [])))

    first = record(lambda row, text: text == "1")
    asked = merge_check.Reduced("bfloat16", 0.01, 0, 0, changed=first.changed)
    stored = json.loads(json.dumps(asdict(replace(first, asked=asked))))
    again = merge_check.judged_again(merge_check.read_check(stored), verdict)
    assert again.asked is not None
    assert again.asked.verdicts_changed == again.verdicts_changed
    assert replace(again, changed=(), asked=None) == replace(record(verdict), changed=())
