import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from lotune.errors import ModelError
from lotune.model.adapters import add_adapter, trainable_count
from lotune.model.loading import LoadedModel
from lotune.model.methods.lora import LoraSettings, lora_count
from lotune.model.methods.targets import find_targets, target_shapes
from lotune.model.new_models import new_llama

LAYERS = {"num_hidden_layers": 32, "num_attention_heads": 32, "hidden_size": 4096}
BASES = {
    "llama": LAYERS | {"vocab_size": 128_256, "intermediate_size": 14_336, "num_key_value_heads": 8},
    "internlm": LAYERS | {"vocab_size": 103_168, "intermediate_size": 11_008},
}
COUNTS = [
    ("llama", 8, ".*wq|.*wv", 3_407_872),
    ("llama", 8, ".*wq|.*wv|.*wo", 5_505_024),
    ("llama", 8, ["q_proj", "k_proj", "v_proj", "o_proj"], 6_815_744),
    ("llama", 16, ["q_proj", "v_proj"], 6_815_744),
    ("llama", 4, ["q_proj", "v_proj"], 1_703_936),
    ("llama", 12, ["wq", "wv"], 5_111_808),
    ("llama", 16, r".*\.(q|k|v|o)_proj", 13_631_488),
    ("llama", 64, r".*attention\.w[qkvo]", 54_525_952),
    ("internlm", 8, ".*wq|.*wo", 4_194_304),
    ("internlm", 16, ".*wq|.*wo", 8_388_608),
    ("internlm", 8, "all-linear", 19_988_480),
]


@pytest.mark.parametrize(("name", "rank", "targets", "count"), COUNTS)
def test_published_counts_without_memory(name: str, rank: int, targets: str | list[str], count: int) -> None:
    with torch.device("meta"):
        model = new_llama(BASES[name])
    assert lora_count(target_shapes(model, targets), rank) == count


def test_the_count_of_an_attached_adapter_is_the_formula(base: LoadedModel) -> None:
    shapes = target_shapes(base.model, "all-linear")
    model = add_adapter(base.model, LoraSettings(rank=3, target_modules="all-linear"), seed=0)
    assert trainable_count(model) == lora_count(shapes, 3)


def test_the_seed_decides_and_the_callers_random_state_stays(llama: LlamaForCausalLM) -> None:
    def first(seed: int) -> torch.Tensor:
        model = add_adapter(llama, LoraSettings(), seed=seed)
        weight = next(p for name, p in model.named_parameters() if "lora_A" in name).detach().clone()
        model.unload()
        return weight

    state = torch.random.get_rng_state()
    assert torch.equal(first(5), first(5))
    assert not torch.equal(first(5), first(6))
    assert torch.equal(state, torch.random.get_rng_state())


def test_names_of_both_toolkits_mean_the_same_modules(llama: LlamaForCausalLM) -> None:
    actual = find_targets(llama, ["q_proj", "v_proj", "o_proj"])
    assert len(actual) == 6
    for other in (".*wq|.*wv|.*wo", ["wq", "wv", "wo"], ["attention.wq", "self_attn.v_proj", "wo"]):
        assert list(find_targets(llama, other)) == list(actual)
    assert list(find_targets(llama, ".*w1|.*w2|.*w3")) == list(
        find_targets(llama, ["gate_proj", "down_proj", "up_proj"])
    )
    assert len(find_targets(llama, "all-linear")) == 14


def test_one_layer_alone_can_be_targeted(base: LoadedModel) -> None:
    model = add_adapter(base.model, LoraSettings(target_modules=r".*layers\.1\..*q_proj"), seed=0)
    assert {name for name, _ in model.named_modules() if name.endswith("lora_A")} == {
        "base_model.model.model.layers.1.self_attn.q_proj.lora_A"
    }


@pytest.mark.parametrize("targets", [".*query.*", ["q_proj", "wqkv"], []])
def test_targets_without_a_match_list_the_layers(targets: str | list[str], llama: LlamaForCausalLM) -> None:
    with pytest.raises(ModelError, match="of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, lm_head"):
        find_targets(llama, targets)


def test_unusable_targets_are_refused(llama: LlamaForCausalLM) -> None:
    with pytest.raises(ModelError, match="is not a pattern"):
        find_targets(llama, "*wq")
    with pytest.raises(ModelError, match="lm_head shares its weights"):
        find_targets(llama, ["q_proj", "lm_head"])
    add_adapter(llama, LoraSettings(), seed=0)
    with pytest.raises(ModelError, match="already has an adapter"):
        add_adapter(llama, LoraSettings(), seed=0)


def test_transposed_linears_are_adapted(tokens: torch.Tensor) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=256, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()
    assert target_shapes(model, ["c_attn"]) == [(16, 48)]
    before = model(tokens).logits
    adapted = add_adapter(model, LoraSettings(target_modules=["c_attn"]), seed=0)
    assert trainable_count(adapted) == lora_count([(16, 48)], 8)
    assert torch.equal(adapted(input_ids=tokens).logits, before)
