"""The engine: transformers' own greedy answers, whatever the batch; ends, stop texts, refusals."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from tiny_models import causal_lm

from lotune.errors import DataError
from lotune.generate.backends import attention_windows
from lotune.generate.continuous_batching import MAX_STEP_TOKENS, ContinuousBatcher
from lotune.generate.engine import Engine, generate_completions
from lotune.generate.llama_forward import ForwardInput
from lotune.generate.requests import Completion, FinishEvent, Request, eos_token_ids
from lotune.generate.slot_model import SlotModel

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

SMALL = {"vocab_size": 300, "bos_token_id": None, "eos_token_id": 0, "pad_token_id": 1}
WIDE = {
    **SMALL,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}


def llama(**changes: Any) -> PreTrainedModel:
    return causal_lm("LlamaConfig", **WIDE | changes)


def gpt2() -> PreTrainedModel:
    return causal_lm("GPT2Config", **SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=256)


def qwen2() -> PreTrainedModel:
    return causal_lm("Qwen2Config", **WIDE)


def mistral() -> PreTrainedModel:
    return causal_lm("MistralConfig", **WIDE, sliding_window=8)


def gemma3() -> PreTrainedModel:
    layers = ["sliding_attention", "full_attention"]
    return causal_lm("Gemma3TextConfig", **WIDE, head_dim=8, sliding_window=8, layer_types=layers)


def eager_llama() -> PreTrainedModel:
    return llama(attn_implementation="eager")


def dynamic_llama() -> PreTrainedModel:
    return llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0})


def bloom() -> PreTrainedModel:
    return causal_lm("BloomConfig", **SMALL, hidden_size=32, n_layer=2, n_head=4)


def gemma2() -> PreTrainedModel:
    caps = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 5.0}
    return causal_lm("Gemma2Config", **WIDE, **caps, head_dim=8, sliding_window=8)


def gpt_oss() -> PreTrainedModel:
    shape = {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8, "sliding_window": 8}
    rope = {"rope_type": "default", "rope_theta": 10000.0}
    return causal_lm("GptOssConfig", **WIDE | shape, rope_parameters=rope)


def gptj() -> PreTrainedModel:
    return causal_lm("GPTJConfig", **SMALL, n_embd=32, n_layer=2, n_head=4, n_positions=256, rotary_dim=4)


def gpt_neo() -> PreTrainedModel:
    layers = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 8}
    return causal_lm("GPTNeoConfig", **SMALL, **layers, hidden_size=32, max_position_embeddings=256)


def mpt() -> PreTrainedModel:
    return causal_lm("MptConfig", **SMALL, d_model=32, n_layers=2, n_heads=4, max_seq_len=256)


SLOTTED = [llama, gpt2, qwen2, mistral, gemma3, gemma2, gpt_oss, eager_llama]
ALIGNED = [dynamic_llama, bloom, gptj, gpt_neo, mpt]
EAGER = [gemma2, gpt_oss, bloom, gptj, gpt_neo, mpt]
"""Architectures for which transformers has no attention but their own."""


def made(shape: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    """A model with weights wide enough that its answers vary; the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = shape().eval()
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.25)
    return model


def requests(count: int, seed: int = 0, low: int = 1) -> list[Request]:
    """Prompts of 1 to 40 tokens, answers of `low` to 30."""
    draw = random.Random(seed)
    return [
        Request(tuple(draw.randrange(2, 300) for _ in range(draw.randint(1, 40))), draw.randint(low, 30))
        for _ in range(count)
    ]


def theirs(model: PreTrainedModel, request: Request) -> tuple[int, ...]:
    """The answer of transformers' own generate to one prompt alone, without the end-of-text."""
    prompt = torch.tensor([request.prompt_ids])
    output = model.generate(
        input_ids=prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=request.max_new_tokens,
        min_new_tokens=request.min_new_tokens or None,
        do_sample=False,
    )
    ids = tuple(output[0, prompt.shape[1] :].tolist())
    return ids[:-1] if ids and ids[-1] == 0 else ids


def is_greedy(
    model: PreTrainedModel, request: Request, answer: tuple[int, ...], close: float = 0.0, whole: bool = True
) -> bool:
    """Whether transformers' own forward pass, once over prompt and answer, has each token of it as the best.

    So it does what `theirs` does, in one step. Tokens within `close` of the best logit are best ones, too; a `whole`
    answer ends at its length or where end-of-text is best.
    """
    following = (*answer, 0) if whole and len(answer) < request.max_new_tokens else answer
    read = torch.tensor([[*request.prompt_ids, *answer]])
    with torch.inference_mode():
        logits = model(input_ids=read).logits[0, len(request.prompt_ids) - 1 :]
    chosen = logits[torch.arange(len(following)), torch.tensor(following, dtype=torch.long)]
    return bool((logits[: len(following)].amax(-1) - chosen <= close).all())


def test_a_greedy_answer_is_known(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model = made(llama)
    for request in requests(6, low=4):
        answer = theirs(model, request)
        other = (*answer[:2], answer[2] % 298 + 1, *answer[3:]) if len(answer) > 2 else (*answer, 5)
        assert is_greedy(model, request, answer)
        assert not is_greedy(model, request, other)
        assert not answer or not is_greedy(model, request, answer[:-1])


def ids(completions: list[Completion]) -> list[tuple[int, ...]]:
    return [completion.token_ids for completion in completions]


def test_a_prompt_is_read_in_the_step_of_the_running_rows(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The weights are read once for both, and the answers are those of rows that are read alone."""
    first, second = (
        Request(tuple(range(2, 40)), 20, min_new_tokens=20),
        Request(tuple(range(9, 60)), 20, min_new_tokens=20),
    )
    expected = [dict(Engine(tiny_llama, byte_tokenizer).stream([request]))[0].token_ids for request in (first, second)]
    engine, passes, forward = Engine(tiny_llama, byte_tokenizer), list[ForwardInput](), SlotModel.logits

    def watched(self: SlotModel, inputs: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        passes.append(inputs)
        return forward(self, inputs, keep)

    monkeypatch.setattr(SlotModel, "logits", watched)
    ids = [engine.submit(first)]
    for _ in range(5):
        engine.step()
    passes.clear()
    ids.append(engine.submit(second))
    engine.step()
    [joined] = passes
    assert joined.lengths is not None
    assert joined.lengths[1] >= len(second.prompt_ids)
    answers = [[event for event in engine.events(id) if isinstance(event, FinishEvent)] for id in ids]
    assert [finish.completion.token_ids for [finish] in answers] == expected


@pytest.mark.oracle
@pytest.mark.parametrize("shape", [*SLOTTED, *ALIGNED], ids=lambda shape: shape.__name__)
def test_answers_are_those_of_transformers(
    shape: Callable[[], PreTrainedModel], byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    model = made(shape)
    submitted = requests(14)
    expected = [theirs(model, request) for request in submitted]
    assert len(set(expected)) > 10
    for batch_tokens in (1, 150, 10_000):  # one row at a time, few rows with refills, all at once
        assert ids(generate_completions(model, byte_tokenizer, submitted, batch_tokens=batch_tokens)) == expected


@pytest.mark.parametrize("shape", SLOTTED, ids=lambda shape: shape.__name__)
def test_these_models_run_in_slots(shape: Callable[[], PreTrainedModel]) -> None:
    assert attention_windows(made(shape))


@pytest.mark.parametrize("shape", ALIGNED, ids=lambda shape: shape.__name__)
def test_these_models_run_in_aligned_batches(shape: Callable[[], PreTrainedModel]) -> None:
    assert not attention_windows(made(shape))


def test_answers_do_not_depend_on_order_or_company(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    submitted = requests(40, seed=3)
    expected = ids(generate_completions(tiny_llama, byte_tokenizer, submitted, batch_tokens=400))
    order = list(range(40))
    random.Random(1).shuffle(order)
    for batch_tokens in (90, 1000):
        shuffled = ids(
            generate_completions(tiny_llama, byte_tokenizer, [submitted[i] for i in order], batch_tokens=batch_tokens)
        )
        assert shuffled == [expected[i] for i in order]


def test_never_more_tokens_than_the_budget_and_slots_are_refilled(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights, sizes, alone, reading = [], [], [], []
    forward = SlotModel.logits

    def watched(self: SlotModel, inputs: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        sizes.append(self.slots * self.capacity)
        if (inputs.input_ids.shape[1] == 1 or inputs.scored is not None) and not reading:
            heights.append(len(inputs.input_ids))
        return forward(self, inputs, keep)

    monkeypatch.setattr(SlotModel, "logits", watched)
    monkeypatch.setitem(MAX_STEP_TOKENS, "cpu", 1)
    read_alone = ContinuousBatcher._prefill_one

    def counted(self: ContinuousBatcher, row: Any, ending: Any) -> Completion | None:
        alone.append(row)
        reading.append(True)
        answer = read_alone(self, row, ending)
        reading.clear()
        return answer

    monkeypatch.setattr(ContinuousBatcher, "_prefill_one", counted)
    submitted = [Request((5, *range(2, 2 + length)), 10 + length % 7, min_new_tokens=50) for length in range(40)]
    generate_completions(tiny_llama, byte_tokenizer, submitted, batch_tokens=300)
    assert max(sizes) <= 300
    # a prompt that is read alone has its first token without a step
    assert sum(heights) + len(alone) == sum(request.max_new_tokens for request in submitted)
    assert len(heights) < sum(heights) / 5  # the batch stays full, and grows as the prompts get shorter


@pytest.mark.oracle
@pytest.mark.parametrize("shape", SLOTTED, ids=lambda shape: shape.__name__)
def test_many_rows_attend_to_their_own_lengths(
    shape: Callable[[], PreTrainedModel], byte_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of slots keep rows of similar length while rows come and go; the answers are those of a row alone."""
    model, draw = made(shape), random.Random(4)
    lengths = [draw.choice((3, 90)) for _ in range(70)]
    submitted = [Request(tuple(draw.randrange(2, 300) for _ in range(n)), draw.randint(2, 60)) for n in lengths]
    widths, forward = [], ContinuousBatcher._forward

    def watched(self: ContinuousBatcher, rows: Any, inputs: ForwardInput, keep: int | None = 1) -> torch.Tensor:
        if inputs.key_spans is not None:
            widths.append((inputs.key_spans, [row.length + 1 for row in self.running]))
        return forward(self, rows, inputs, keep)

    monkeypatch.setattr(ContinuousBatcher, "_forward", watched)
    before = model.config._attn_implementation
    answers = ids(generate_completions(model, byte_tokenizer, submitted, batch_tokens=40 * 150))
    assert model.config._attn_implementation == before
    assert all(is_greedy(model, request, answer) for request, answer in zip(submitted, answers, strict=True))
    if before == "eager":
        assert not widths
        return
    for parts, needed in widths:
        assert [first for first, _, _ in parts] == [0, *(last for _, last, _ in parts[:-1])]
        assert parts[-1][1] == len(needed)
        assert all(max(needed[first:last]) == width for first, last, width in parts)
    assert max(len(parts) for parts, _ in widths) > 1


def test_no_request_no_answer(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    assert generate_completions(tiny_llama, byte_tokenizer, [], batch_tokens=100) == []


def test_each_answer_is_reported_once_and_the_training_mode_comes_back(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast
) -> None:
    tiny_llama.train()
    seen: dict[int, Completion] = {}
    answers = generate_completions(tiny_llama, byte_tokenizer, requests(9), batch_tokens=200, on_done=seen.__setitem__)
    assert [seen[index] for index in range(9)] == answers
    assert tiny_llama.training


class Scripted:
    """Stands in for the tokeniser's decode, and forces the tokens that a model chooses."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, text: str) -> None:
        self.tokenizer = tokenizer
        self.tokens = [*tokenizer(text, add_special_tokens=False)["input_ids"], 0, 0, 0]

    def force(self, model: LlamaForCausalLM, prompt_tokens: int) -> None:
        """From position prompt_tokens - 1 on the model is sure of each token of the text, then of end-of-text."""

        def sure(module: Any, args: Any, kwargs: Any, output: Any) -> Any:
            length = output.logits.shape[1]
            for row, positions in enumerate(kwargs["position_ids"][:, -length:].tolist()):
                for column, position in enumerate(positions):
                    place = min(position - prompt_tokens + 1, len(self.tokens) - 1)
                    if place >= 0:
                        output.logits[row, column, self.tokens[place]] = 1e4
            return output

        model.register_forward_hook(sure, with_kwargs=True)


@pytest.fixture
def answer(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> Callable[..., Completion]:
    """The answer of a model that is bound to write a text."""

    def ask(text: str, **wishes: Any) -> Completion:
        Scripted(byte_tokenizer, text).force(tiny_llama, 3)
        request = Request((5, 6, 7), **{"max_new_tokens": 60, **wishes})
        return generate_completions(tiny_llama, byte_tokenizer, [request, request], batch_tokens=1000)[1]

    return ask


def test_a_character_of_several_tokens_is_whole(answer: Callable[..., Completion]) -> None:
    text = "计算 3.5 等于 √12 🙂。"
    completion = answer(text)
    assert completion.text == text
    assert completion.finish_reason == "eos"
    assert len(completion.token_ids) == len(text.encode())


def test_an_answer_ends_before_a_stop_text(answer: Callable[..., Completion]) -> None:
    completion = answer("答案 12\n\n### Instruction: more", stop=("###", "说明"))
    assert completion.text == "答案 12\n\n"
    assert completion.finish_reason == "stop"
    assert len(completion.token_ids) == len("答案 12\n\n###".encode())


def test_a_stop_text_of_several_bytes_and_at_the_start(answer: Callable[..., Completion]) -> None:
    assert answer("问题", stop=("问",)) == Completion("", answer("问", max_new_tokens=3).token_ids, "stop")


def test_an_answer_ends_at_its_length(answer: Callable[..., Completion]) -> None:
    completion = answer("abcdef", max_new_tokens=4)
    assert (completion.text, completion.finish_reason) == ("abcd", "length")


def test_no_end_before_the_minimum(answer: Callable[..., Completion]) -> None:
    assert len(answer("ab", min_new_tokens=1).token_ids) == 2
    assert answer("", max_new_tokens=4).token_ids == ()
    assert len(answer("", max_new_tokens=4, min_new_tokens=4).token_ids) == 4


@pytest.mark.oracle
def test_the_minimum_is_that_of_transformers(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    model = made(llama)
    with torch.no_grad():  # end-of-text is always likely
        model.lm_head.weight[0] = model.lm_head.weight[1:].abs().max(0).values * 2
    submitted = [Request(r.prompt_ids, r.max_new_tokens, min_new_tokens=5) for r in requests(12, low=6)]
    expected = [theirs(model, request) for request in submitted]
    assert ids(generate_completions(model, byte_tokenizer, submitted, batch_tokens=300)) == expected
    assert min(map(len, expected)) == 5


def test_every_end_of_text_of_model_and_tokenizer_ends(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, answer: Callable[..., Completion]
) -> None:
    b = byte_tokenizer("b", add_special_tokens=False)["input_ids"][0]
    tiny_llama.generation_config.eos_token_id = [b, 299]
    assert eos_token_ids(tiny_llama, byte_tokenizer) == (0, b, 299)
    completion = answer("abc")
    assert (completion.text, completion.finish_reason) == ("a", "eos")
    tiny_llama.generation_config.eos_token_id = None
    assert eos_token_ids(tiny_llama, byte_tokenizer) == (0,)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request((5,) * 250, 20, label="row q7"), "row q7: needs 270 tokens"),
        (Request((), 20), "request 1: has no prompt"),
        (Request((5,), 0), "request 1: has no prompt or asks for no token"),
        (Request((5, 300), 5), "request 1: has token ids from 5 to 300"),
    ],
)
def test_invalid_requests_are_refused_before_any_step(
    tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast, request_: Request, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        generate_completions(tiny_llama, byte_tokenizer, [Request((5,), 5), request_], batch_tokens=1000)


def test_the_whole_context_can_be_used(tiny_llama: LlamaForCausalLM, byte_tokenizer: PreTrainedTokenizerFast) -> None:
    request = Request((5,) * 236, 20, min_new_tokens=20)
    assert len(generate_completions(tiny_llama, byte_tokenizer, [request], batch_tokens=10)[0].token_ids) == 20


@pytest.mark.oracle
def test_an_adapted_model_answers_as_transformers_has_it(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(made(llama), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    model.eval()
    submitted = requests(8)
    expected = [theirs(model, request) for request in submitted]
    assert ids(generate_completions(model, byte_tokenizer, submitted, batch_tokens=200)) == expected
