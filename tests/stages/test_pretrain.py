"""Pre-training through the command line: text, tokeniser and model from a seed, small enough for a test."""

from __future__ import annotations

import json
import math
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import processes
import pytest
from command_line import call

from lotune.data.token_files import TokenFile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

RECIPE = """
seed: 2
device: cpu
pretrain:
  generated_documents: 120
  step_tokens: 1024
  steps: 12
  optimizer: OPTIMIZER
  export_to: PUBLISH
  validation_fraction: 0.2
  llama_config: {vocab_size: 420, hidden_size: 32, num_hidden_layers: 2, num_attention_heads: 4, num_key_value_heads: 4,
    intermediate_size: 64}
"""


def written(folder: Path, optimizer: str = "adamw") -> Path:
    """The recipe, in a folder."""
    recipe = folder / "mini.yaml"
    recipe.write_text(RECIPE.replace("OPTIMIZER", optimizer).replace("PUBLISH", str(folder / "weights")))
    return recipe


def trained_steps(run: Path) -> list[dict[str, Any]]:
    """The steps in the metrics of a run, without its validations."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "number" in line]


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_a_base_model_from_scratch(tmp_path: Path, optimizer: str) -> None:
    import torch

    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    recipe = written(tmp_path, optimizer)
    words = ("pretrain", recipe, f"runs={tmp_path / 'runs'}", "--json")
    foreseen = json.loads(call(*words, "--dry-run").stdout)
    assert (foreseen["documents"], foreseen["steps"]) == (120, 12)
    assert foreseen["memory_bytes"] > 16 * 420 * 32
    assert not (tmp_path / "runs" / "mini" / "data").exists()
    figures = json.loads(call(*words).stdout)
    steps = trained_steps(tmp_path / "runs" / "mini")
    assert [step["number"] for step in steps] == list(range(1, figures["steps"] + 1))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert 0 < figures["validation_loss"] < steps[0]["loss"]
    base = load_model(BaseSettings(model=str(tmp_path / "weights")), "cpu")
    assert sum(p.numel() for p in base.model.parameters()) == figures["parameters"]
    assert all(p.dtype == torch.float32 or base.dtype == torch.bfloat16 for p in base.model.parameters())
    stamp = (tmp_path / "runs" / "mini" / "model" / "model.safetensors").stat().st_mtime_ns
    assert "nothing has changed" in call(*words).stderr
    assert (tmp_path / "runs" / "mini" / "model" / "model.safetensors").stat().st_mtime_ns == stamp
    call(*words, "pretrain.steps=2", "pretrain.llama_config.vocab_size=400", "pretrain.export_to=null")
    assert json.loads((tmp_path / "runs" / "mini" / "model" / "config.json").read_text())["vocab_size"] == 400
    load_model(BaseSettings(model=str(tmp_path / "runs" / "mini" / "model")), "cpu")
    assert len(trained_steps(tmp_path / "runs" / "mini")) == 2, (
        "the metrics of an older training stand among those of this one"
    )


def test_a_recipe_without_the_part(tmp_path: Path) -> None:
    recipe = tmp_path / "plain.yaml"
    recipe.write_text("seed: 1\n")
    assert "has no pretrain settings" in call("pretrain", recipe, f"runs={tmp_path}", status=2).stderr


@pytest.mark.slow
def test_pretraining_continues_from_a_model(tmp_path: Path) -> None:
    """`pretrain.init_from` takes a model's weights and tokeniser; a first step from there is not one from nothing."""
    recipe = written(tmp_path)
    runs = f"runs={tmp_path / 'runs'}"
    call("pretrain", recipe, runs, "pretrain.steps=12", "pretrain.step_tokens=2048")
    more = (f"pretrain.init_from={tmp_path / 'weights'}", f"pretrain.export_to={tmp_path / 'more'}", "name=more")
    call("pretrain", recipe, runs, *more)

    def losses(name: str) -> list[float]:
        return [step["loss"] for step in trained_steps(tmp_path / "runs" / name)]

    assert losses("more")[0] < losses("mini")[0] - 0.1
    tokenizers = [(tmp_path / name / "tokenizer.json").read_bytes() for name in ("weights", "more")]
    assert tokenizers[0] == tokenizers[1]


def test_a_heading_alone_does_not_end_its_text(byte_tokenizer: PreTrainedTokenizerFast) -> None:
    from lotune.data.examples import Example
    from lotune.stages.pretraining_corpus import _encode_documents

    texts = [Example("1", "2*3=", ":\n+02+03*+\n", category=kind) for kind in ("sum", "heading")]
    whole, heading = _encode_documents(byte_tokenizer, texts)
    assert whole.token_ids == (*heading.token_ids, byte_tokenizer.eos_token_id)
    assert whole.completion_start == heading.completion_start == 4


@pytest.mark.slow
def test_documents_are_generated_once_unless_their_settings_change(tmp_path: Path) -> None:
    """A stopped pre-training finds its tokeniser and documents; damage and other inputs are noticed."""
    recipe, data = written(tmp_path), tmp_path / "mini" / "data"
    words: tuple[object, ...] = ("pretrain", recipe, f"runs={tmp_path}", "pretrain.steps=1")

    def said(*more: str) -> str:
        return call(*words, *more).stderr

    def contents() -> dict[str, bytes]:
        return {str(file.relative_to(data)): file.read_bytes() for file in data.rglob("*") if file.is_file()}

    assert "training the tokeniser\nwriting 120 documents as tokens\n" in said()
    first = contents()
    found = said("pretrain.learning_rate=0.001")
    assert f"reusing the tokeniser and documents in {data}\n" in found
    assert "writing 120 documents" not in found
    assert contents() == first
    tokens = data / "train.tokens.npy"
    tokens.write_bytes(tokens.read_bytes()[:-2])
    found = said("pretrain.learning_rate=0.002")
    assert "changed: data: content changed (the documents are made again)\n" in found
    assert contents() == first
    found = said("pretrain.generated_documents=90", "pretrain.learning_rate=0.002")
    assert "changed: pretrain.generated_documents: 120 -> 90 (the documents are made again)\n" in found
    assert len(TokenFile(data / "train")) == 90
    assert len(TokenFile(data / "validation")) == 18


def test_documents_depend_on_the_code_that_makes_them() -> None:
    """What the generator and the tokeniser import is among the inputs; what lies below every room needs not be."""
    from lotune.recipe import Recipe
    from lotune.stages import pretraining_corpus

    code = (
        "import lotune.nano.corpus_generator, lotune.data.tokenizer_training, sys; "
        "print(*[m for m in sys.modules if m[:7] == 'lotune.'])"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    inputs = pretraining_corpus.document_inputs(Recipe(pretrain={}))
    paths = [path for path in inputs.values() if isinstance(path, Path)]
    assert len(paths) == len(pretraining_corpus.CORPUS_CODE)
    assert all(path.exists() for path in paths)
    covered = {key.removesuffix(".py").replace("/", ".") for key in inputs}
    plain = (
        "errors",
        "settings",
        "settings_elsewhere",
        "memory",
        "disk_space",
        "files",
        "runs",
        "nano",
        "environment",
        "text_display",
    )
    below = {f"lotune.{name}" for name in plain}
    missing = [
        name for name in loaded if name not in below and not any(f"{name}.".startswith(f"{one}.") for one in covered)
    ]
    assert missing == []
    assert set(pretraining_corpus.CORPUS_SETTINGS) <= set(inputs)


def test_disk_space_is_checked_before_long_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = written(tmp_path)
    words = ("pretrain", recipe, f"runs={tmp_path}", "pretrain.generated_documents=1000000")
    needed = json.loads(call(*words, "--dry-run", "--json").stdout)["disk_bytes"]
    monkeypatch.setattr("lotune.disk_space.free_disk_bytes", lambda _: needed - 1)
    found = call(*words, status=2).stderr
    assert f"pre-training needs {needed / 2**20:.1f} MiB on this disk" in found
    assert "are free" in found
    assert not (tmp_path / "mini" / "data").exists()
    monkeypatch.setattr("lotune.disk_space.free_disk_bytes", lambda _: needed)
    assert json.loads(call(*words, "--dry-run", "--json").stdout)["disk_bytes"] == needed


@pytest.mark.slow
def test_the_required_disk_space_is_enough(tmp_path: Path) -> None:
    """It is more than documents, two states and one that is written, the model, the best one, a copy; not by far."""
    recipe = written(tmp_path)
    words = ("pretrain", recipe, f"runs={tmp_path}", "pretrain.generated_documents=1500", "pretrain.steps=1")
    needed = json.loads(call(*words, "--dry-run", "--json").stdout)["disk_bytes"]
    parameters = json.loads(call(*words, "--json").stdout)["parameters"]
    folder = tmp_path / "mini"
    documents = sum(file.stat().st_size for file in (folder / "data").glob("*.*"))
    models = 3 * 2 * parameters
    states = 3 * 3 * 4 * parameters
    assert documents + models + states <= needed < 1.5 * (documents + models + states)
    again = json.loads(call(*words, "pretrain.learning_rate=0.01", "--dry-run", "--json").stdout)["disk_bytes"]
    assert again == states + models, "the documents are there"


@pytest.mark.slow
def test_a_loss_that_is_not_a_number_names_step_and_documents(tmp_path: Path) -> None:
    """The embedding of one token is broken: the first step that reads it stops, and the state before it stays."""
    import torch

    from lotune.data.samplers import pretraining_batches
    from lotune.model.checkpoints import save_model
    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    recipe, start = written(tmp_path), tmp_path / "start"
    runs, untied = f"runs={tmp_path}", "pretrain.llama_config.tie_word_embeddings=false"
    call("pretrain", recipe, runs, untied, f"pretrain.export_to={start}")
    rows = TokenFile(tmp_path / "mini" / "data" / "train")
    read: list[set[int]] = [
        set(batch.input_ids.flatten().tolist())
        for (batch,) in pretraining_batches(rows, batch_tokens=1024, steps=12, seed=2)
    ]
    broken, step = next(
        (min(fresh), number)
        for number in range(2, 13)
        if (fresh := read[number - 1] - set().union(*read[: number - 1]))
    )
    base: Any = load_model(BaseSettings(model=str(start), dtype="float32"), "cpu")
    with torch.no_grad():
        base.model.model.embed_tokens.weight[broken] = float("nan")
    save_model(base.model, base.tokenizer, start, torch.float32)
    more = (f"pretrain.init_from={start}", "pretrain.export_to=null", "save_every_minutes=0", "name=more",
            "pretrain.validate_every=0")  # fmt: skip
    said = call("pretrain", recipe, runs, untied, *more, status=1).stderr.splitlines()[-3]
    assert said.startswith(
        f"step {step}: the loss is nan and the norm of its gradient nan, first in model.embed_tokens; "
    )
    rows = TokenFile(tmp_path / "more" / "data" / "train")
    named = [int(word) for word in said.partition("its rows: ")[2].replace("document ", "").split(", ")]
    assert any(broken in rows[place].token_ids[:-1] for place in named)
    assert {token for place in named for token in rows[place].token_ids[:-1]} == read[step - 1]
    assert list((tmp_path / "more" / "states").glob(f"step-{step - 1:09d}.*"))


KILLED_AT = """
import os, signal, sys
from lotune.cli.app import main
from lotune.train import train_state

def killed(*_):
    os.kill(os.getpid(), signal.SIGKILL)

moment, step, save = sys.argv[1], int(sys.argv[2]), train_state.save_state

def save_state(folder, training, number, notes):
    if (moment, number) == ("while saving", step):
        train_state.os.replace = killed
    save(folder, training, number, notes)
    if number == step:
        killed()

train_state.save_state = save_state
del sys.argv[1:3]
main()
"""
"""A command that kills itself with SIGKILL: "while saving" the state of a step, or after that."""


@pytest.fixture
def one_thread() -> Iterator[None]:
    """The threads of torch that a recipe's `threads` sets are set back."""
    import torch

    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL there")
def test_a_killed_pretraining_resumes_to_the_same_weights(tmp_path: Path) -> None:
    """It is killed while a state is written and after another was: it ends bit for bit as it would have."""
    recipe, folder, whole = (written(tmp_path, "muon"), *(tmp_path / name / "mini" for name in ("killed", "whole")))
    words = ("pretrain", recipe, "threads=1", "save_every_minutes=0", "pretrain.export_to=null",
             "pretrain.validate_every=3", "pretrain.sample_tokens=5")  # fmt: skip
    said = []
    for moment, step in (("while saving", 4), ("after", 7)):
        command = ["lotune", moment, step, *words, f"runs={tmp_path / 'killed'}"]
        done = processes.Process(KILLED_AT, command).result()
        assert done.returncode == -signal.SIGKILL, done.stderr
        said.append(done.stderr)
        assert not (folder / "model").exists()
    said.append(call(*words, f"runs={tmp_path / 'killed'}").stderr)
    assert ["writing 120 documents" in one for one in said] == [True, False, False]
    assert ["resuming after step 3\n" in said[1], "resuming after step 7\n" in said[2]] == [True, True]
    call(*words, f"runs={tmp_path / 'whole'}")
    for name in ("model/model.safetensors", "model/tokenizer.json", "pretraining.json", "samples.jsonl"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes(), name
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["number"] for line in lines if "number" in line] == list(range(1, 13))
    assert [line["validation"]["step"] for line in lines if "validation" in line] == [3, 6, 9, 12]
    assert [line for line in lines if "validation" in line] == [
        json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines() if "validation" in line
    ]
    assert not (folder / "states").exists()


def articles(folder: Path) -> Path:
    """Forty articles of a few sentences in a jsonl file."""
    draw = random.Random(1)
    words = ["sun", "moon", "river", "stone", "sees", "warms", "the", "a", "old", "near"]
    file = folder / "articles.jsonl"
    texts = [" ".join(" ".join(draw.choices(words, k=6)) + "." for _ in range(draw.randint(2, 6))) for _ in range(40)]
    file.write_text("".join(json.dumps({"text": f"Title\n\n{text}"}) + "\n" for text in texts))
    return file


@pytest.mark.slow
@pytest.mark.oracle
@pytest.mark.parametrize("more", [
    ["pretrain.chunking=first_block", "pretrain.block_size=64"],
    ["pretrain.chunking=stream", "pretrain.sampling=with_replacement", "pretrain.config_file=GPT2"],
    ["pretrain.score_eot=on"],
])  # fmt: skip
def test_a_base_model_from_a_users_articles(tmp_path: Path, more: list[str]) -> None:
    """Its figures on held-out text are those that transformers' own loss gives on the same blocks."""
    import torch

    from lotune.model.loading import load_model
    from lotune.model.settings import BaseSettings

    gpt2 = {"model_type": "gpt2", "vocab_size": 420, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 48}
    (tmp_path / "gpt2").mkdir()
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(gpt2))
    more = [word.replace("GPT2", str(tmp_path / "gpt2")) for word in more]
    text = (f"pretrain.corpus={articles(tmp_path)}", "pretrain.cleaning=wiki", "pretrain.export_to=null")
    words = ("pretrain", written(tmp_path), f"runs={tmp_path}", *text, *more, "--json")
    assert json.loads(call(*words, "--dry-run").stdout)["documents"] is None
    figures = json.loads(call(*words).stdout)
    rows = TokenFile(tmp_path / "mini" / "data" / "validation")
    base: Any = load_model(BaseSettings(model=str(tmp_path / "mini" / "model"), dtype="float32"), "cpu")
    bits = size = 0.0
    for row in (rows[place] for place in range(len(rows))):
        ids = torch.tensor([row.token_ids])
        labels = ids if "pretrain.score_eot=on" in more else ids.masked_fill(ids == base.tokenizer.eos_token_id, -100)
        scored = int((labels[:, 1:] != -100).sum())
        bits += base.model(input_ids=ids, labels=labels).loss.item() * scored / math.log(2)
        size += len(base.tokenizer.decode(row.token_ids[1:], skip_special_tokens=True).encode())
    assert figures["bits_per_byte"] == pytest.approx(bits / size, rel=1e-2)
    assert figures["perplexity"] == pytest.approx(math.exp(figures["validation_loss"]))
    assert ("rows are padded" in call(*words, "seed=9").stderr) == any("gpt2" in word for word in more)
    assert "nothing has changed" in call(*words, "seed=9").stderr


@pytest.mark.parametrize(("more", "found"), [
    ([], "is no JSON object with a text"),
    (["pretrain.corpus=nowhere.jsonl"], "pretrain.corpus: nowhere.jsonl does not exist"),
    (["pretrain.init_from=.", "pretrain.tokenizer=."], "init_from brings its own tokenizer"),
])  # fmt: skip
def test_articles_that_cannot_be_read_are_refused(tmp_path: Path, more: list[str], found: str) -> None:
    (tmp_path / "bad.jsonl").write_text('{"text": "Fine."}\n{"title": "no text"}\n')
    words = ("pretrain", written(tmp_path), f"runs={tmp_path}", f"pretrain.corpus={tmp_path / 'bad.jsonl'}", *more)
    assert found in call(*words, status=2).stderr


def test_validations_and_samples_show_a_model_that_learns(tmp_path: Path) -> None:
    words = ("pretrain", written(tmp_path), f"runs={tmp_path}", "pretrain.export_to=null", "pretrain.validate_every=4")
    prompts = 'pretrain.sample_prompts=["The river", "[red]"]'
    said = call(*words, prompts, "pretrain.sample_tokens=4").stderr
    folder = tmp_path / "mini"
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    found = [line["validation"] for line in lines if "validation" in line]
    assert [record["step"] for record in found] == [4, 8, 12]
    assert found[-1]["loss"] < found[0]["loss"]
    assert found[-1]["perplexity"] == pytest.approx(math.exp(found[-1]["loss"]))
    figures = json.loads((folder / "pretraining.json").read_text())
    assert (figures["validation_loss"], figures["best"]) == (found[-1]["loss"], found[-1])
    assert not (folder / "model-best").exists()  # the last model is the best one
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [(line["step"], line["prompt"]) for line in samples] == [
        (step, prompt) for step in (4, 8, 12) for prompt in ("The river", "[red]")
    ]
    assert f"step 12: validation loss {found[-1]['loss']:.4f}" in said
    assert "[red]⟦" in said


def test_a_pre_training_without_progress_ends_and_keeps_its_best(tmp_path: Path) -> None:
    from safetensors.torch import load_file

    # A rate that grows the loss from some step on: the first validation is the best one.
    words = ("pretrain", written(tmp_path), f"runs={tmp_path}", "pretrain.export_to=null", "pretrain.validate_every=2",
             "pretrain.steps=40", "pretrain.learning_rate=0.9", "pretrain.warmup_ratio=0.5", "pretrain.patience=2",
             "pretrain.max_grad_norm=0", "pretrain.sample_tokens=0")  # fmt: skip
    said, folder = call(*words).stderr, tmp_path / "mini"
    figures = json.loads((folder / "pretraining.json").read_text())
    best = figures["best"]
    assert figures["steps"] == best["step"] + 4 < 40
    assert f"step {best['step']} was best on validation" in said
    weights = [load_file(folder / name / "model.safetensors") for name in ("model", "model-best")]
    assert any((weights[0][name] != weights[1][name]).any() for name in weights[0])
    assert not (folder / "samples.jsonl").read_bytes()
    assert "nothing has changed" in call(*words).stderr


COURSE_SHAPE = "{model_type: gpt2, n_layer: 12, n_head: 12, n_embd: 768, n_positions: 512, vocab_size: 50304}"


def test_an_architecture_is_counted_in_both_conventions(tmp_path: Path) -> None:
    words = ("pretrain", written(tmp_path), f"runs={tmp_path}", "--dry-run")
    shown = call(*words, f"pretrain.architecture={COURSE_SHAPE}").stderr
    assert "124,082,688 parameters (123,587,328 without position embeddings and biases)" in shown
    faults = {"{model_type: gpt2, layers: 3}": "unknown names: layers", "{n_layer: 3}": "has the model_type None"}
    for architecture, fault in faults.items():
        assert fault in call(*words, f"pretrain.architecture={architecture}", status=2).stderr
    both = (f"pretrain.architecture={COURSE_SHAPE}", "pretrain.config_file=config.json")
    assert "give one of the two" in call(*words, *both, status=2).stderr


def test_a_gpt2_is_trained_with_muon_and_adamw_for_its_embeddings(tmp_path: Path) -> None:
    from lotune.model.new_models import new_model_from_config
    from lotune.train.optimizers import muon

    shape = {"model_type": "gpt2", "n_layer": 1, "n_head": 2, "n_embd": 8, "n_positions": 16, "vocab_size": 300}
    model = new_model_from_config(shape, {})
    matrices = {id(p) for group in muon(model, 0.02, 0.1).members[0].param_groups for p in group["params"]}
    names = [name for name, parameter in model.named_parameters() if id(parameter) in matrices]
    assert [name.removeprefix("transformer.h.0.") for name in names] == [
        "attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight",
    ]  # fmt: skip


def test_a_tokeniser_by_name_is_stored_with_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("pretrain", written(tmp_path), f"runs={tmp_path}", "pretrain.export_to=null", "pretrain.steps=1",
             f"pretrain.corpus={articles(tmp_path)}", "pretrain.llama_config.vocab_size=2048")  # fmt: skip
    call(*words, "pretrain.tokenizer=nano")
    nano = json.loads((tmp_path / "mini" / "data" / "tokenizer" / "tokenizer.json").read_text(encoding="utf-8"))
    assert len(nano["model"]["vocab"]) == 2048
    assert "nothing has changed" in call(*words, "pretrain.tokenizer=nano").stderr
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert "no-such-name" in call(*words, "pretrain.tokenizer=no-such-name", status=2).stderr
