"""`lotune audit` through the command line: adapters, merged models, configurations, claims."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import call

from lotune.evaluate.parameter_ratio import BASE_TOTALS

MINDFORMERS = """
run_mode: finetune
trainer: {type: CausalLanguageModelingTrainer, model_name: internlm_7b_lora}
model:
  model_config:
    type: InternLMConfig
    hidden_size: 4096
    num_layers: 32
    num_heads: 32
    vocab_size: 103168
    has_bias: True
    pet_config: {pet_type: lora, lora_rank: 8, lora_alpha: 16, lora_dropout: 0.1, target_modules: '.*wk|.*wo'}
"""


def audit(*words: object, status: int = 0) -> Any:
    """The result of the command as JSON; it has to end with `status`."""
    return json.loads(call("audit", *words, "--json", status=status).stdout)


@pytest.fixture(scope="module")
def models(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the adapter of rank 3 on queries and values that lotune writes, and the model merged with it."""
    import torch
    from tiny_models import with_random_adapter

    from lotune.model.adapters import add_adapter
    from lotune.model.checkpoints import merge, save_adapter, save_model
    from lotune.model.loading import load_model
    from lotune.model.methods.lora import LoraSettings
    from lotune.model.settings import BaseSettings

    folder = tmp_path_factory.mktemp("models")
    base = load_model(BaseSettings(model=str(small_base), dtype="float32"), "cpu")
    model = with_random_adapter(add_adapter(base.model, LoraSettings(rank=3), seed=0), 0.5)
    save_adapter(model, folder / "adapter", base=base)
    fresh = load_model(BaseSettings(model=str(small_base), dtype="float32"), "cpu")
    save_model(merge(fresh, folder / "adapter"), base.tokenizer, folder / "merged", torch.float32)
    return folder


COUNT = 2 * 3 * ((32 + 32) + (32 + 16))


def test_an_adapter_of_lotune(models: Path, small_base: Path) -> None:
    result = audit(models / "adapter", "--rank", 3, "--targets", "q,v", "--count", COUNT)
    assert (result["kind"], result["base"]["name"], result["contradictions"]) == ("adapter", str(small_base), [])
    expected = {"ranks": [3], "targets": ["q_proj", "v_proj"], "modules": 4, "parameters": COUNT}
    assert result["predicted"] == result["measured"] == result["claimed"] == expected
    [ratio] = result["ratios"]
    assert ratio["measured"] == pytest.approx(COUNT / result["base"]["parameters"])
    [explanation] = result["explanations"]
    assert {"rank": 3, "targets": ["q_proj", "v_proj"], "parameters": COUNT} in explanation["configurations"]
    shown = call("audit", models / "adapter").stdout
    assert "no contradiction" in shown
    assert f"{COUNT:,}" in shown


@pytest.mark.parametrize(
    ("claim", "words"),
    [
        (["--rank", "4"], "rank 4 is claimed, the tensors have rank 3"),
        (["--targets", "q,k"], "layers q_proj, k_proj are claimed, the tensors adapt q_proj, v_proj"),
        (["--count", "700"], "700 parameters are claimed, rank 3 on q_proj, v_proj has 672"),
        (["--ratio", "0.5"], "ratio 0.5 is claimed, 672 parameters are"),
        (["--rank", "6", "--targets", "q,v", "--count", "672"], "rank 6 on q_proj, v_proj has 1,344; 672 is rank 3"),
    ],
)
def test_a_wrong_claim_about_an_adapter(claim: list[str], words: str, models: Path) -> None:
    result = audit(models / "adapter", *claim, status=1)
    assert any(words in contradiction for contradiction in result["contradictions"]), result["contradictions"]
    assert f"CONTRADICTION: {result['contradictions'][0]}" in call("audit", models / "adapter", *claim, status=1).stdout


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"r": 8}, "the configuration says rank 8, the tensors have rank 3"),
        (
            {"target_modules": ["q_proj", "o_proj"]},
            "the configuration adapts q_proj, o_proj, the tensors adapt q_proj, v_p",
        ),
        ({"rank_pattern": {"q_proj": 5}}, "says ranks 3, 5, the tensors have rank 3"),
        ({"layers_to_transform": [0]}, "adapts q_proj in 1 of 2 layers, v_proj in 1 of 2 layers, the tensors adapt q"),
        ({"use_dora": True}, "the configuration predicts 768 parameters, the tensors have 672"),
    ],
)
def test_a_configuration_that_is_not_that_of_the_tensors(
    changes: dict[str, Any], words: str, models: Path, tmp_path: Path
) -> None:
    shutil.copytree(models / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    assert words in audit(tmp_path / "adapter", status=1)["contradictions"][0]
    # The configuration alone says nothing about tensors, and so nothing against them.
    assert audit(file)["contradictions"] == []


def test_an_adapter_without_a_known_base(models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "/elsewhere/base"}))
    result = audit(tmp_path / "adapter", "--targets", "wq,wv", "--rank", 3)
    assert (result["base"], result["predicted"], result["ratios"]) == (None, None, [])
    assert result["measured"]["parameters"] == COUNT
    assert "--base gives it" in result["notes"][0]
    assert audit(tmp_path / "adapter", "--targets", "wo", status=1)["contradictions"]
    other = audit(tmp_path / "adapter", "--base", "llama-3-8b", status=1)["contradictions"]
    assert any("modules do not fit" in one for one in other)
    file.unlink()
    assert "nothing is predicted" in audit(tmp_path / "adapter")["notes"][0]


def test_tensors_tell_where_nothing_is_predicted(models: Path, tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    shutil.copytree(models / "adapter", tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"target_modules": ["c_attn"]}))
    result = audit(tmp_path / "adapter")
    assert (result["predicted"], result["measured"]["parameters"]) == (None, COUNT)
    assert "'c_attn' matches no linear module" in result["notes"][0]
    assert "'c_attn' matches no linear module" in call("audit", file, status=2).stderr
    fused = {"lora_A": np.zeros((8, 2048), "float32"), "lora_B": np.zeros((4096, 8), "float32")}
    name = "base_model.model.model.layers.0.attention.wqkv"
    save_file(
        {f"{name}.{part}.weight": one for part, one in fused.items()}, str(file.parent / "adapter_model.safetensors")
    )
    result = audit(file.parent, "--base", "internlm2-1.8b")
    assert (result["measured"]["ranks"], result["contradictions"]) == ([8], [])
    assert "wqkv" in result["notes"][0]


def test_a_merged_model(models: Path, small_base: Path) -> None:
    words = (models / "merged", "--base", small_base)
    result = audit(*words, "--rank", 3, "--targets", "q,v", "--count", COUNT)
    assert (result["kind"], result["contradictions"]) == ("merged", [])
    assert result["measured"] == {"ranks": [3], "targets": ["q_proj", "v_proj"], "modules": 4, "parameters": COUNT}
    assert len(result["differences"]) == 4
    assert {(one["rank"], one["at_most"]) for one in result["differences"]} == {(3, 3)}
    [found] = audit(*words, "--rank", 8, status=1)["contradictions"]
    assert found == "rank 8 is claimed, the changes of the weights have rank 3"
    [found] = audit(*words, "--targets", "q", status=1)["contradictions"]
    assert found == "layers q_proj are claimed, the tensors change q_proj, v_proj"
    shown = call("audit", *words).stdout
    assert "changed: model.layers.self_attn.q_proj.weight (2 tensors): rank 3" in shown
    same = audit(small_base, "--base", small_base)
    assert (same["differences"], same["measured"]["modules"]) == ([], 0)


def test_what_a_merged_model_needs(models: Path, small_base: Path, tmp_path: Path) -> None:
    assert "is a complete model\nexpected: --base FOLDER" in call("audit", models / "merged", status=2).stderr
    error = call("audit", models / "merged", "--base", "llama-3-8b", status=2).stderr
    assert "llama-3-8b is no folder" in error
    run = tmp_path / "run"
    shutil.copytree(models / "adapter", run / "checkpoints" / "step-000100" / "adapter")
    assert "step-000100/adapter" in call("audit", run, status=2).stderr


def test_a_report_that_contradicts_itself(tmp_path: Path) -> None:
    """The report says rank 16 on wq and wo; its number of parameters, and its configuration, are rank 8."""
    claim = ("--rank", 16, "--targets", "wq,wo", "--count", "4,194,304", "--ratio", "0.000572914082775577")
    (tmp_path / "finetune.yaml").write_text(MINDFORMERS)
    result = audit(tmp_path / "finetune.yaml", *claim, status=1)
    assert result["base"] == {"name": "internlm-7b", "source": "config.json", "parameters": 7_321_948_160}
    assert result["predicted"] == {
        "ranks": [8], "targets": ["k_proj", "o_proj"], "modules": 64, "parameters": 4_194_304,
    }  # fmt: skip
    assert result["contradictions"] == [
        "rank 16 is claimed, the configuration has rank 8",
        "layers q_proj, o_proj are claimed, the configuration adapts k_proj, o_proj",
        "4,194,304 parameters are claimed, rank 16 on q_proj, o_proj has 8,388,608; "
        "4,194,304 is rank 8 on these layers",
    ]
    assert [one["convention"] for one in result["ratios"] if one["fits_claimed_ratio"]] == ["internlm-7b"]
    alone = audit("--base", "internlm-7b", *claim, status=1)["contradictions"]
    assert alone[0].endswith("rank 16 on q_proj, o_proj has 8,388,608; 4,194,304 is rank 8 on these layers")
    assert len(alone) == 2


PUBLISHED = [
    ("llama-3-8b", 8, "q,v", 3_407_872, "0.000424393"),
    ("llama-3-8b", 8, "q,v,o", 5_505_024, "5505024/8030000000"),
    ("llama-3-8b", 12, "q,v", 5_111_808, "0.000636589"),
    ("llama-3-8b", 64, "q,k,v,o", 54_525_952, "0.00679028"),
    ("internlm-7b", 8, "q,o", 4_194_304, "0.000572914082775577"),
    ("internlm-7b", 8, "all-linear", 19_988_480, "0.00273"),
]


@pytest.mark.parametrize(("base", "rank", "targets", "count", "ratio"), PUBLISHED)
def test_figures_of_the_contest(base: str, rank: int, targets: str, count: int, ratio: str) -> None:
    words = ("--base", base, "--rank", rank, "--targets", targets)
    result = audit(*words, "--count", count, "--ratio", ratio)
    assert (result["predicted"]["parameters"], result["contradictions"]) == (count, [])
    rounded = {name: total for name, total in BASE_TOTALS.items() if total is not None}
    by_name = {one["convention"]: one for one in result["ratios"]}
    [name] = set(by_name) & set(rounded)
    assert by_name[name]["predicted"] == count / rounded[name]
    assert by_name["measured"]["predicted"] == count / result["base"]["parameters"]
    assert by_name[name]["fits_claimed_ratio"]
    shown = call("audit", *words, "--count", count, "--ratio", ratio).stdout
    assert f"{count:,}" in shown
    assert name in shown


def test_a_number_alone_is_explained() -> None:
    result = audit("--base", "llama-3-8b", "--count", "6815744")
    [explanation] = result["explanations"]
    found = [(one["rank"], one["targets"]) for one in explanation["configurations"]]
    assert (16, ["q_proj", "v_proj"]) in found
    assert (8, ["q_proj", "k_proj", "v_proj", "o_proj"]) in found
    assert result["contradictions"] == []
    by_ratio = audit("--base", "llama-3-8b", "--ratio", "0.000424393")
    assert [bool(one["configurations"]) for one in by_ratio["explanations"]] == [False, True]


def test_recipes(tmp_path: Path, small_base: Path, models: Path) -> None:
    assert audit("demo")["predicted"]["parameters"] == 14_592
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"base: {{model: '{small_base}'}}\n")
    result = audit(recipe, "--count", 2 * 8 * (64 + 48))
    assert result["predicted"]["ranks"] == [8]
    assert "adapter.rank is auto" in result["notes"][0]
    recipe.write_text("base: {model: gpt2}\nadapter: {method: prompt_tuning, num_virtual_tokens: 9}\n")
    assert audit(recipe)["predicted"]["parameters"] == 9 * 768
    recipe.write_text("base: {model: gpt2}\nadapter: {rank: 4, target_modules: [c_attn], budget: 0.001}\n")
    [found] = audit(recipe, status=1)["contradictions"]
    assert "adapter.budget: the adapter has 147,456 parameters (rank 4)" in found
    recipe.write_text(f"base: {{model: '{small_base}'}}\nadapter: {{init_from: '{models / 'adapter'}'}}\n")
    assert audit(recipe)["predicted"]["parameters"] == COUNT


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "neither TARGET nor --base"),
        (["--base", "llama-3-8b", "--rank", "8"], "no --targets and no TARGET"),
        (["--base", "llama-3-8b", "--rank", "8", "--targets", "q,x"], "--targets: 'x' matches no linear module"),
        (["demo", "--targets", "c_attn"], "--targets: 'c_attn' matches no linear module"),
        (["--base", "llama-3-8b", "--count", "3M"], "the exact number of parameters"),
        (["--base", "llama-3-8b", "--ratio", "tiny"], "cannot read 'tiny'"),
        (["--base", "gpt2", "--rank", "8", "--targets", "lm_head"], "shares its weights with the embedding"),
        (["--base", "llama-9"], "llama-9"),
        (["missing"], "does not exist"),
        (["missing.yaml"], "does not exist"),
        (["empty"], "holds neither adapter_config.json nor config.json"),
        (["notes.txt"], "is of no known kind"),
        (["full.yaml"], "no LoRA with rank and layers"),
        (["config.json"], "peft_type"),
        (["pickled"], "only as pickle"),
    ],
)
def test_bad_input(words: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pickled").mkdir()
    (tmp_path / "pickled" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    (tmp_path / "pickled" / "adapter_model.bin").write_bytes(b"a pickle")
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "full.yaml").write_text("model: {model_config: {type: LlamaConfig}}")
    error = call("audit", *words, status=2).stderr
    assert message in error
    assert len(error.splitlines()) <= 3


def test_a_configuration_is_audited_without_torch(tmp_path: Path) -> None:
    (tmp_path / "mf.yaml").write_text(MINDFORMERS)
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "Qwen/Qwen2.5-0.5B"}'
    )
    described = ["--base", "llama-3-8b", "--rank", "8", "--targets", "q,v"]
    commands = [["mf.yaml"], ["demo"], ["adapter_config.json"], described]
    script = (
        "import json, sys\nfrom lotune.cli.app import app\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    app(['audit', *words, '--json'], standalone_mode=False)\n"
        "print([name for name in ('torch', 'transformers', 'peft') if name in sys.modules], file=sys.stderr)\n"
    )
    words = [sys.executable, "-c", script, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "[]"
    assert done.stdout.count('"contradictions": []') == len(commands)


def test_names_from_outside_cannot_control_a_terminal(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    name = "base_model.model.layers.0.\x1b[31mq\u202e_proj"
    tensors = {f"{name}.lora_A.weight": np.ones((2, 4), "float32"), f"{name}.lora_B.weight": np.ones((4, 2), "float32")}
    save_file(tensors, str(tmp_path / "adapter_model.safetensors"))
    shown = call("audit", tmp_path, "--base", "nano", status=1)
    assert "␛[31mq‹U+202E›_proj" in shown.stdout
    for text in (shown.stdout, shown.stderr, call("audit", tmp_path, "--base", "nano", "--json", status=1).stdout):
        assert not {"\x1b", "\u202e"} & set(text)
