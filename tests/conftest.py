"""A tiny model, a byte tokeniser and the reference data, for all tests. Nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest
from soak import pytest_addoption, pytest_runtest_makereport, pytest_sessionfinish, select  # noqa: F401  # as hooks

from lotune.threads import share_cores

share_cores()  # before torch is imported: the suite also runs on busy machines
hypothesis.settings.register_profile("lotune", deadline=None, max_examples=50, derandomize=True)
hypothesis.settings.register_profile("soak", deadline=None, max_examples=1000)
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models gain nothing from threads, and workers share the cores

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

collect_ignore = ["warm.py"]  # whoever imports it holds libraries back
END, PAD = "<|endoftext|>", "<|pad|>"


LONG_FILES = (
    "test_documented_commands.py", "test_repair.py", "test_clients.py", "test_distributed_run.py", "test_end_to_end.py",
    "test_train_benchmark.py", "test_kills.py", "test_strength.py", "test_documented_serving.py", "test_own_rows.py",
    "test_docs.py", "test_pretrain.py", "test_serve_benchmark.py", "test_contest_recipes.py", "test_blocks.py",
    "test_pages.py", "test_story.py",
)  # fmt: skip
"""Files of tests that take a quarter of a minute or more, the longest first."""


def pytest_configure(config: pytest.Config) -> None:
    """Choose the same examples each time, or many at random in the soak."""
    hypothesis.settings.load_profile("soak" if config.getoption("--soak") else "lotune")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests marked soak are left out, or alone; those marked gpu are skipped where there is no CUDA device.

    Long files come first, so that no core waits for the last one at the end.
    """
    select(config, items)
    items.sort(key=lambda item: LONG_FILES.index(item.path.name) if item.path.name in LONG_FILES else len(LONG_FILES))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture
def tiny_llama() -> LlamaForCausalLM:
    """A new Llama of two layers, hidden size 32, vocabulary 300 and context 256; the same weights each time."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=300,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="session")
def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A tokeniser whose tokens are single bytes: ids 0 (end of text), 1 (padding) and 2 to 257."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = [END, PAD, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of real data that LOTUNE_REFERENCE_DATA names; the test is skipped where there is none."""
    folder = os.environ.get("LOTUNE_REFERENCE_DATA")
    if not folder:
        pytest.skip("LOTUNE_REFERENCE_DATA is not set: no reference data to compare with")
    if not Path(folder).is_dir():
        pytest.skip(f"LOTUNE_REFERENCE_DATA names {folder}, which is not there")
    return Path(folder)


@pytest.fixture(scope="session")
def small_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a complete base model: two layers of width 32 with random weights, context 1024."""
    import torch

    from lotune.data.tokenizer_training import train_tokenizer
    from lotune.model.checkpoints import save_model
    from lotune.model.new_models import new_llama

    folder = tmp_path_factory.mktemp("base")
    texts = ["计算 1 + 1 等于多少？ the answer is short", "### Instruction:", "### Response:"] * 20
    tokenizer = train_tokenizer(texts, 400, folder / "tokenizer")
    shape = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 1024, "initializer_range": 0.2,
        "tie_word_embeddings": True, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_model(new_llama(shape), tokenizer, folder / "model", torch.float32)
    return folder / "model"


WRITTEN = 'x < 1 & "y" <script>alert(1)</script> `a|b` ```\n[link](http://example.org/x.png)\x00\x1b[31m'
"""What a model may write: markup of all kinds and control characters."""


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that nobody computed: 60 test rows of three kinds, four checkpoints, all tested.

    Tests that change it copy it first.
    """
    from lotune.files import write_json
    from lotune.recipe import Recipe
    from lotune.record_files import append_record
    from lotune.runs import open_run
    from lotune.stages.auto_settings import with_stored_settings
    from lotune.stages.dependencies import stage_inputs

    recipe = Recipe.model_validate(
        {
            "name": 'run "one" <b>&', "runs": str(tmp_path_factory.mktemp("made-up")), "seed": 3,
            "tune": {"learning_rate": 0.02}, "task": {"instruction_prefix": "<script>alert(2)</script>"},
        }
    )  # fmt: skip
    steps = {f"step-{number:06d}": number for number in (25, 50, 75, 100)}
    with open_run(recipe.folder, recipe) as run:
        losses = {name: 1.2 * 0.97**number + 0.15 for name, number in steps.items()}
        for number in range(1, 101):
            noise = 0.1 * ((number * 37) % 11 - 5) / number**0.5
            step = {"number": number, "loss": 1.2 * 0.97**number + 0.1 + noise, "learning_rate": 0.02}
            append_record(run.folder / "metrics.jsonl", {**step, "tokens": 900, "seconds": 0.5, "gradient_norm": 1.0})
        write_json(run.folder / "data" / "counts.json", _made_up_counts())
        _write_made_up_results(run.folder, steps, losses)
        tested = stage_inputs(with_stored_settings(recipe, run.folder), "evaluate")
        inputs = {"prepare": {}, "tune": {}, "validate": {}, "repair": {}, "merge": {}, "evaluate": tested}
        for stage, values in inputs.items():
            run.mark_stage_done(stage, values)
    return recipe.folder


def _made_up_counts() -> dict[str, object]:
    from dataclasses import asdict

    from lotune.data.curation import Contamination, ContaminationReport, DataCounts

    overlap = ContaminationReport({"test": Contamination(2, 1, 3, 60), "retention": Contamination(0, 0, 0, 20)}, 3)
    kinds = {"add": 500, "divide": 300, "a|b": 147}
    malformed = ("mine.csv:7 <no> solution", "mine.csv:9 no problem")
    rows = DataCounts(
        read=1003, kept=949, malformed=2, malformed_rows=malformed, duplicates=1, validation=50, overlap=overlap,
        kinds=kinds,
    )  # fmt: skip
    tokens = {
        "rows": 1047, "tokens": 81234, "supervised": 30111, "longest": 612, "limit": 1024, "dropped_too_long": 4,
        "first": "1 + 1 = ⟦2<|endoftext|>⟧", "retention_cut": 2,
        "left_out": {"test": 1},
    }  # fmt: skip
    replay = {"rows": 100, "source": "generator", "seconds": 0.5, "rehearsed": "reading"}
    return {"rows": asdict(rows), "replay": replay, "tokens": tokens}


def _write_made_up_results(folder: Path, steps: dict[str, int], losses: dict[str, float]) -> None:
    """Predictions of the base and of four checkpoints, and their scorecard; the third checkpoint is the chosen one."""
    from lotune.evaluate.facts import Facts
    from lotune.evaluate.predict import Prediction
    from lotune.evaluate.retention import gate, gate_passed
    from lotune.evaluate.scorecard import (
        Check,
        Checkpoint,
        ContestScore,
        make_scorecard,
        measure_parameters,
        write_scorecard,
    )
    from lotune.evaluate.target import ScoredExample, measure_target
    from lotune.record_files import append_record
    from lotune.tasks.arithmetic.task import ArithmeticTask
    from lotune.tasks.task import Score

    facts = Facts("arithmetic", "significant:5", "alpaca", "greedy, 880 new tokens at most")

    def answer(row: int, right: bool) -> Prediction:
        key = str(row + row % 7)
        text = f"{row} + {row % 7} =\n{key}" if right else WRITTEN
        judged = Score(key if right else "<i>0</i>", key, right)
        prompt = f"Solve.\n\n{row} + {row % 7} = <?>\n\nAnswer:"
        kind = ("add", "divide", "a|b")[row % 3]
        return Prediction(f"row:{row}", prompt, text, judged, kind, finish_reason="eos", facts=facts)

    answers = {"base": [answer(row, row % 9 == 0) for row in range(60)]}
    for index, name in enumerate(steps, start=1):
        answers[name] = [answer(row, row % 5 < index and row != 18) for row in range(60)]
    for name, rows in answers.items():
        for row in rows:
            append_record(folder / "predictions" / "arithmetic" / f"{name}.jsonl", row.record())
    verdicts = {
        name: [ScoredExample(row.example_id, row.category, row.score) for row in rows] for name, rows in answers.items()
    }
    targets = {name: measure_target(ArithmeticTask(), verdicts["base"], verdicts[name]) for name in steps}
    before = {"contest_f1": 82.0, "contest_em": 80.0, "squad_f1": 83.0, "squad_em": 81.0}
    shares = dict(zip(steps, (0.995, 0.97, 0.96, 0.88), strict=True))
    lines = {name: gate(before, {key: share * old for key, old in before.items()}) for name, share in shares.items()}
    parameters = measure_parameters(14_592, 2_164_416, "measured")
    points = [
        Checkpoint(
            name=name, step=step, validation_value=targets[name].value - 0.03, validation_loss=losses[name],
            value=targets[name].value, score=0.3 + 0.7 * targets[name].value, retained=shares[name],
            gate_passed=gate_passed(lines[name]),
        )
        for name, step in steps.items()
    ]  # fmt: skip
    chosen = points[2].name
    card = make_scorecard(
        target=targets[chosen], retention=lines[chosen], parameters=parameters,
        score=ContestScore(rule="phase1", value=0.7123, rank=4, published=20),
        chosen_checkpoint=chosen, checkpoints=points,
        checks=[Check(name="merge", passed=True, detail="logits within 1.2e-05 <ok>")], base="nano",
        notes=["3 training rows were removed because an evaluation set contains them"],
    )  # fmt: skip
    write_scorecard(folder / "scorecard.json", card)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from browsers import BROWSER, OPTIONS

    if BROWSER is None:
        pytest.skip("Chromium is not installed")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(executable_path=BROWSER, args=list(OPTIONS))
        yield launched
        launched.close()
