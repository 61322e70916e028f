"""Packed attention beside the plain formula, row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lotune.model.attention import _attention, packed_attention_kwargs, register_packed_attention
from lotune.model.packed_attention import bucketed_attention, length_buckets, packed_attention
from lotune.model.packing import enable_packing
from lotune.model.varlen_attention import max_head_size, varlen_arguments, varlen_attention

CPU = torch.device("cpu")


def packed_on_cpu(*tensors: Any) -> torch.Tensor:
    """What the operation for processors returns, without its log-sum-exp."""
    output: torch.Tensor = packed_attention(*tensors)[0]
    return output


def reference(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    """Softmax attention by its formula, each row by itself after what all share, (T, H, E) in float64."""
    results = []
    shared, *further = zip(*(tensor.double().split(lengths) for tensor in (query, key, value)), strict=True)
    for number, own in enumerate(further):
        q, k, v = (torch.cat(parts).transpose(0, 1) for parts in zip(shared, own, strict=True))
        later = torch.ones(q.shape[1], q.shape[1], dtype=torch.bool).triu(1)
        weights = (q @ k.transpose(1, 2) * 0.3).masked_fill(later, float("-inf")).softmax(-1)
        results.append((weights @ v).transpose(0, 1)[lengths[0] if number else 0 :])
    return torch.cat(results)


ROWS = st.lists(st.integers(1, 40), min_size=1, max_size=9)
BLOCKS = st.builds(lambda count, length: [length] * count, st.integers(1, 9), st.integers(1, 40))


@given(st.integers(0, 12), st.one_of(ROWS, BLOCKS), st.sampled_from([packed_on_cpu, bucketed_attention]))
@example(0, [7, 7, 7], packed_on_cpu)
@example(0, [7, 7, 7], bucketed_attention)
@settings(max_examples=30)
def test_rows_attend_to_themselves_and_the_shared_prefix(shared: int, own: list[int], attend: Any) -> None:
    """Queries, keys and values may be parts of one tensor, as where one matrix gives all three, in any layout."""
    torch.manual_seed(0)
    lengths = [shared, *own]
    joint = torch.randn(sum(lengths), 6, 8, requires_grad=True)
    weights = torch.randn(sum(lengths), 2, 8)
    expected = reference(*joint.split(2, 1), lengths)
    expected_values = torch.autograd.grad((expected * weights).sum(), joint)
    parts = joint.split(2, 1) if len(own) % 2 else joint.mT.contiguous().mT.split(2, 1)
    result = attend(*parts, torch.tensor(lengths), 0.3)
    torch.testing.assert_close(result, expected.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad((result * weights).sum(), joint), expected_values, rtol=1e-4, atol=1e-5
    )


@given(
    st.integers(0, 12),
    st.one_of(ROWS, BLOCKS),
    st.integers(0, 500),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from([1, 2, 4]),
    st.integers(0, 9),
)
@example(0, [40, 36, 33], 95, torch.float32, 4, 0)
@example(9, [40, 36, 33, 3], 500, torch.bfloat16, 2, 1)
@settings(max_examples=30)
def test_gradients_are_finite_and_right_for_scores_of_any_size(
    shared: int, own: list[int], most: int, dtype: torch.dtype, key_heads: int, seed: int
) -> None:
    """Outlier scores differ by more than 88, whose exponential float32 cannot hold; padding must not meet them."""
    draw = torch.Generator().manual_seed(seed)
    lengths, scale = [shared, *own], 0.3
    parts = [torch.randn(sum(lengths), heads, 8, generator=draw) for heads in (4, key_heads, key_heads, 4)]
    query, key = (torch.nn.functional.normalize(part, dim=-1) * (most / scale) ** 0.5 for part in parts[:2])
    inputs = [part.to(dtype).requires_grad_() for part in (query, key, parts[2])]
    wide = [part.repeat_interleave(4 // part.shape[1], 1) for part in inputs]
    expected = reference(*wide, lengths)
    result, _ = _attention(
        None, *(part.transpose(0, 1)[None] for part in inputs), None, torch.tensor(lengths), scaling=scale
    )
    expected_values = torch.autograd.grad((expected * parts[3]).sum(), inputs)
    gradients = torch.autograd.grad((result[0] * parts[3]).sum(), inputs)
    rounding = 1e-3 if dtype == torch.float32 else 3e-2
    assert (result[0] - expected).norm() <= rounding * expected.norm()
    # where one weight is all but 1 the gradient of the scores is a difference of products that are all but equal
    products = scale * parts[3].norm() * wide[2].norm(dim=-1).max()
    sizes = products * wide[1].norm(dim=-1).max(), products * wide[0].norm(dim=-1).max(), 0.0
    for gradient, other, size in zip(gradients, expected_values, sizes, strict=True):
        assert gradient.isfinite().all()
        assert (gradient.double() - other.double()).norm() <= rounding * (other.double().norm() + size)


def row_by_row(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    query_ends: torch.Tensor,
    key_ends: torch.Tensor,
    most_queries: int,
    most_keys: int,
    *,
    scale: float,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> torch.Tensor:
    """What torch's `varlen_attn` computes on a GPU, by its documentation, for causal attention."""
    assert query_ends.dtype == key_ends.dtype == torch.int32
    assert query_ends[0] == key_ends[0] == 0
    assert (window_size, enable_gqa) == ((-1, 0), True)
    queries, keys = query_ends.diff().tolist(), key_ends.diff().tolist()
    assert (most_queries, most_keys) == (max(queries), max(keys))
    assert (len(query), len(key)) == (sum(queries), sum(keys))
    results = []
    rows = zip(query.split(queries), key.split(keys), value.split(keys), strict=True)
    for q, k, v in rows:
        seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
        k, v = (part.repeat_interleave(q.shape[1] // k.shape[1], 1) for part in (k, v))
        parts = (part.transpose(0, 1) for part in (q, k, v))
        results.append(torch.nn.functional.scaled_dot_product_attention(*parts, seen, scale=scale).transpose(0, 1))
    return torch.cat(results)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The kernel for rows of varied lengths has a stand-in, which notes how many tokens it is called with."""
    calls: list[int] = []

    def noted(query: torch.Tensor, *args: Any, **words: Any) -> torch.Tensor:
        calls.append(len(query))
        return row_by_row(query, *args, **words)

    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="needs torch 2.10")
    monkeypatch.setattr(varlen, "varlen_attn", noted)
    return calls


@given(st.integers(0, 12), ROWS)
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_gpu_kernel_gets_the_same_rows(kernel: list[int], shared: int, own: list[int]) -> None:
    """Two heads share keys; queries, keys and values may be parts of one tensor in any layout."""
    torch.manual_seed(0)
    lengths = [shared, *own]
    joint = torch.randn(sum(lengths), 8, 8, requires_grad=True)
    weights = torch.randn(sum(lengths), 4, 8)
    parts = joint.split((4, 2, 2), 1) if len(own) % 2 else joint.mT.contiguous().mT.split((4, 2, 2), 1)
    query, key, value = parts
    expected = bucketed_attention(
        query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1), torch.tensor(lengths), 0.3
    )
    expected_values = torch.autograd.grad((expected * weights).sum(), joint, retain_graph=True)
    result = varlen_attention(query, key, value, varlen_arguments(lengths, CPU, 64), 0.3)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        torch.autograd.grad((result * weights).sum(), joint), expected_values, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(("dtype", "head_size", "called"), [("bfloat16", 8, 2), ("bfloat16", 7, 0), ("float32", 8, 0)])
def test_a_model_calls_the_kernel_if_it_supports_its_heads(
    tiny_llama: Any, kernel: list[int], dtype: str, head_size: int, called: int
) -> None:
    model, lengths = tiny_llama.to(getattr(torch, dtype)), [3, 9, 2, 5]
    register_packed_attention(model)
    ids, positions = torch.arange(2, 21)[None], torch.cat([torch.arange(3), *(3 + torch.arange(n) for n in (9, 2, 5))])
    words = {"input_ids": ids, "position_ids": positions[None], **packed_attention_kwargs(torch.tensor(lengths))}
    expected = model(**words).logits
    assert not kernel
    result = model(**words, segments=varlen_arguments(lengths, CPU, head_size)).logits
    assert kernel == [19] * called
    torch.testing.assert_close(result, expected, rtol=2e-2, atol=2e-2)


def test_the_kernel_depends_on_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    import inspect

    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="needs torch 2.10")
    if "enable_gqa" not in inspect.signature(varlen.varlen_attn).parameters:
        pytest.skip("needs torch 2.12")
    gpu, result = torch.device("cuda"), []
    for capability in ((7, 5), (8, 0), (8, 6), (9, 0), (12, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, capability=capability: capability)
        result.append(max_head_size(gpu))
    assert result == [0, 256, 192, 256, 192]
    monkeypatch.setattr(varlen, "varlen_attn", lambda query, key, value, is_causal: query)  # as in torch 2.10
    assert max_head_size(gpu) == max_head_size(CPU) == 0
    assert "segments" not in packed_attention_kwargs(torch.tensor([0, 3]))


@pytest.mark.gpu
@pytest.mark.parametrize("shared", [0, 37])
@pytest.mark.parametrize("size", [64, 128])
def test_on_a_gpu_the_kernel_agrees_with_rows_in_groups(shared: int, size: int) -> None:
    torch.manual_seed(0)
    lengths, gpu = [shared, 70, 3, 129, 1, 70], torch.device("cuda")
    head_size = max_head_size(gpu)
    if not head_size:
        pytest.skip("this GPU or torch has no kernel for rows of varied lengths")
    joint = torch.randn(sum(lengths), 16, size, device=gpu, dtype=torch.bfloat16, requires_grad=True)
    query, key, value = joint.split((8, 4, 4), 1)
    row_lengths, weights = torch.tensor(lengths), torch.randn(sum(lengths), 8, size, device=gpu)
    wide = (part.float() for part in (query, key.repeat_interleave(2, 1), value.repeat_interleave(2, 1)))
    expected = bucketed_attention(*wide, row_lengths, 0.1)
    [expected_values] = torch.autograd.grad((expected * weights).sum(), joint, retain_graph=True)
    result = varlen_attention(query, key, value, varlen_arguments(lengths, gpu, head_size), 0.1).float()
    [gradient] = torch.autograd.grad((result * weights).sum(), joint)
    assert (result - expected).norm() <= 1e-2 * expected.norm()
    assert (gradient.float() - expected_values.float()).norm() <= 2e-2 * expected_values.float().norm()


@pytest.mark.gpu
def test_on_a_gpu_a_compiled_model_takes_packed_rows_in_one_graph() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"vocab_size": 300, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2}
    config = LlamaConfig(**shape, num_attention_heads=4, num_key_value_heads=2)
    model = LlamaForCausalLM(config).to("cuda", torch.bfloat16).eval()
    if not max_head_size(torch.device("cuda")):
        pytest.skip("this GPU or torch has no kernel for rows of varied lengths")
    assert enable_packing(model, 64)
    compiled = torch.compile(model.model, fullgraph=True)
    for lengths in ([0, 30, 9], [0, 5, 2, 8], [0, 4, 4, 4, 7], [12, 4, 9]):
        ids = torch.arange(2, 2 + sum(lengths), device="cuda")[None]
        words = {"input_ids": ids, "position_ids": ids, **packed_attention_kwargs(torch.tensor(lengths, device="cuda"))}
        result, expected = compiled(**words).last_hidden_state, model.model(**words).last_hidden_state
        torch.testing.assert_close(result, expected, rtol=5e-2, atol=5e-2)


@given(st.integers(0, 9), st.lists(st.integers(1, 99), min_size=1, max_size=30))
def test_every_token_belongs_to_one_row(shared: int, own: list[int]) -> None:
    results = length_buckets((shared, *own))
    positions = torch.cat([group.indices.flatten()[group.own] for group in results])
    assert positions.sort().values.tolist() == list(range(shared + sum(own)))
    real = sum(len(group.real) for group in results)
    assert real == sum(own) + shared * len(own)


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_without_packed_rows_a_model_answers_as_before(tiny_llama: Any, heads: int) -> None:
    """Padded on the left, as generation does, and packed: each row's logits are those that it has alone."""
    model = tiny_llama if heads == 2 else type(tiny_llama)(_with_heads(tiny_llama.config, heads)).eval()
    ids = torch.arange(2, 22)[None]
    alone = model(input_ids=ids).logits
    register_packed_attention(model)
    assert torch.equal(model(input_ids=ids).logits, alone)
    mask = torch.tensor([[0, 0, 0] + [1] * 17])
    padded = model(input_ids=torch.cat([ids[:, :3] * 0 + 1, ids[:, :17]], 1), attention_mask=mask).logits
    torch.testing.assert_close(padded[:, 3:], alone[:, :17], rtol=1e-4, atol=1e-5)
    twice, positions = torch.cat([ids, ids[:, :5]], 1), torch.cat([torch.arange(20), torch.arange(5)])[None]
    packed = model(input_ids=twice, position_ids=positions, **packed_attention_kwargs(torch.tensor([0, 20, 5]))).logits
    torch.testing.assert_close(packed, torch.cat([alone, alone[:, :5]], 1), rtol=1e-4, atol=1e-5)


def _with_heads(config: Any, heads: int) -> Any:
    config.num_key_value_heads = heads
    return config


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.soak)])
def test_a_compiled_model_takes_packed_rows(tiny_llama: Any, backend: str) -> None:
    register_packed_attention(tiny_llama)
    compiled = torch.compile(tiny_llama.model, backend=backend)
    for lengths in ([3, 9], [5, 2, 8], [4, 4, 4, 7]):
        ids = torch.arange(2, 2 + sum(lengths))[None]
        words = {"input_ids": ids, "position_ids": ids * 0 + 1, **packed_attention_kwargs(torch.tensor([0, *lengths]))}
        result, expected = compiled(**words).last_hidden_state, tiny_llama.model(**words).last_hidden_state
        torch.testing.assert_close(result, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_rows_of_varied_lengths_are_compiled_to_one_graph(tiny_llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an operation that torch does not look into in the place of the GPU's kernel; two graphs for all batches."""

    @torch.library.custom_op("lotune_test::varied", mutates_args=())
    def operation(tensors: Sequence[torch.Tensor], most_queries: int, most_keys: int, scale: float) -> torch.Tensor:
        return row_by_row(*tensors, most_queries, most_keys, scale=scale, window_size=(-1, 0), enable_gqa=True)

    @operation.register_fake
    def _(tensors: Sequence[torch.Tensor], *rest: Any) -> torch.Tensor:
        return torch.empty_like(tensors[0])

    def stand_in(*args: Any, scale: float, window_size: tuple[int, int], enable_gqa: bool) -> torch.Tensor:
        output: torch.Tensor = operation(list(args[:5]), *args[5:], scale)
        return output

    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="needs torch 2.10")
    monkeypatch.setattr(varlen, "varlen_attn", stand_in)
    graphs: list[Any] = []

    def counted(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph

    model = tiny_llama.to(torch.bfloat16).eval().requires_grad_(False)
    register_packed_attention(model)
    compiled = torch.compile(model.model, fullgraph=True, backend=counted)
    for lengths in ([0, 3, 9], [0, 5, 2, 8], [0, 4, 4, 4, 7], [0, 2, 17], [0, 1, 3, 3, 30]):
        ids = torch.arange(2, 2 + sum(lengths))[None]
        words = {"input_ids": ids, "position_ids": ids, **packed_attention_kwargs(torch.tensor(lengths))}
        words["segments"] = varlen_arguments(lengths, CPU, 64)
        result, expected = compiled(**words).last_hidden_state, model.model(**words).last_hidden_state
        torch.testing.assert_close(result, expected, rtol=2e-2, atol=2e-2)
    assert len(graphs) <= 2
