"""Parts of the stages that the whole of a run does not show: plans, choices, changes, and a merge that went wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lotune.data.examples import Example, as_record
from lotune.data.rows import write_jsonl
from lotune.data.token_files import write_token_file
from lotune.data.tokenized import EncodedRow, encode_row
from lotune.distributed import SINGLE_PROCESS
from lotune.errors import CheckError, SettingsError
from lotune.evaluate.merge_check import MergeCheckRow
from lotune.evaluate.retention import RetentionSettings
from lotune.files import write_json
from lotune.model.adapters import add_adapter
from lotune.model.checkpoints import save_adapter
from lotune.model.loading import load_model, load_tokenizer
from lotune.model.methods.lora import LoraSettings
from lotune.recipe import Recipe
from lotune.runs import Run
from lotune.stages.abilities import abilities_of
from lotune.stages.dependencies import stage_inputs
from lotune.stages.invalidation import STAGE_ORDER, invalidated
from lotune.stages.merging import checked, checked_files, merge_and_check, rows_of
from lotune.stages.tuning_session import make_plan, set_up_tuning
from lotune.stages.validate import CheckpointResult, best_checkpoint, choose_checkpoint
from lotune.tasks.build_datasets import evaluation_rows
from lotune.tasks.registry import build_task, task_settings
from lotune.tasks.task import Score
from lotune.train.schedule import lr_factors
from lotune.train.settings import CheckpointSettings, TuneSettings


@given(rows=st.integers(1, 500), batch=st.integers(1, 40), accumulation=st.integers(1, 5), epochs=st.floats(0.1, 4))
def test_a_plan(rows: int, batch: int, accumulation: int, epochs: float) -> None:
    tune = TuneSettings(
        micro_batch_rows=batch, gradient_accumulation_steps=accumulation, epochs=epochs, warmup_ratio=0.03
    )
    plan = make_plan(Recipe(tune=tune, checkpoints=CheckpointSettings(count=1)), rows)
    assert plan.step_rows == min(rows, batch * accumulation)
    factors = lr_factors(tune, plan.steps)
    assert len(factors) == plan.steps
    assert plan.checkpoints == [plan.steps]
    assert max(factors) > 0
    with pytest.raises(SettingsError, match=r"checkpoints\.count"):
        make_plan(Recipe(tune=tune, checkpoints=CheckpointSettings(count=plan.steps + 1)), rows)


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.5, 0.9]), st.floats(0, 5)), min_size=1, max_size=6))
def test_the_best_on_validation_is_chosen(figures: list[tuple[float, float]]) -> None:
    results = [CheckpointResult(str(step), step, value, loss) for step, (value, loss) in enumerate(figures)]
    chosen = best_checkpoint(results)
    assert chosen.value == max(value for value, _ in figures)
    assert chosen.loss == min(loss for value, loss in figures if value == chosen.value)


ARITHMETIC = build_task(task_settings("arithmetic"))


def verdicts(correct: int, rows: int = 100) -> list[Score]:
    return [Score("1", "1", number < correct) for number in range(rows)]


def checkpoint(name: str, correct: int, retained: float) -> CheckpointResult:
    return CheckpointResult(name, 1, correct / 100, 0.1, retained=retained, gate_passed=retained >= 0.9)


@pytest.mark.parametrize(("figures", "chosen"), [
    ({"early": (80, 0.99), "late": (97, 0.4)}, "early"),  # the late one has forgotten too much
    ({"early": (80, 0.99), "late": (97, 0.91)}, "late"),
    ({"early": (96, 0.97), "late": (97, 0.91)}, "early"),  # one row more is within the standard error
    ({"early": (92, 0.97), "late": (97, 0.91)}, "late"),  # five rows more are not
    ({"early": (60, 0.5), "late": (97, 0.4)}, "late"),  # none passes
])  # fmt: skip
def test_a_checkpoint_is_chosen_among_those_that_pass_the_gate(
    figures: dict[str, tuple[int, float]], chosen: str
) -> None:
    results = [checkpoint(name, correct, retained) for name, (correct, retained) in figures.items()]
    scores = {name: verdicts(correct) for name, (correct, _) in figures.items()}
    assert choose_checkpoint(results, ARITHMETIC, scores).name == chosen


CHANGES = [
    ({"seed": 1}, {"prepare", "tune", "evaluate"}),
    ({"task": {"template": "plain"}}, {"prepare", "tune", "validate", "merge", "evaluate"}),
    ({"task": {"scorer": "exact"}}, {"prepare", "validate", "evaluate"}),
    ({"task": {"name": "custom", "scorer": "label"}}, {"prepare", "tune", "validate", "merge", "evaluate"}),
    ({"task": {"max_new_tokens": 9}}, {"prepare", "validate", "merge", "evaluate"}),
    ({"data": {"generated_rows": 9}}, {"prepare", "tune", "evaluate"}),
    ({"retention": {"rows": 9}}, {"prepare", "evaluate"}),
    ({"adapter": {"rank": 3}}, {"tune", "evaluate"}),
    ({"tune": {"epochs": 2.0}}, {"tune", "evaluate"}),
    ({"checkpoints": {"count": 2}}, {"tune", "evaluate"}),
    ({"checkpoints": {"merged": "all"}}, {"merge", "evaluate"}),
    ({"tune": {"micro_batch_rows": 16}}, {"tune", "evaluate"}),
    (
        {
            "tune": {
                "micro_batch_rows": 16,
                "gradient_accumulation_steps": 2,
                "max_batch_tokens": 99,
                "gradient_checkpointing": True,
            }
        },
        set(),
    ),
    ({"retention": {"min_retained": 0.5}}, {"validate", "repair", "evaluate"}),
    ({"retention": {"action": "report"}}, {"repair", "evaluate"}),
    ({"retention": {"validation_rows": 9}}, {"prepare", "evaluate"}),
    ({"score": {"rule": "phase2"}}, {"evaluate"}),
    ({"evaluate": {"dtype": "float32"}}, {"merge", "evaluate"}),
    ({"device": "cpu"}, set()),
    ({"threads": 1}, set()),
    ({"name": "other"}, set()),
]


@pytest.mark.parametrize(("change", "stages"), CHANGES)
def test_what_a_change_invalidates(tmp_path: Path, change: dict[str, Any], stages: set[str]) -> None:
    run, given = Run(tmp_path), {"tune": {"micro_batch_rows": 32}}
    for stage in STAGE_ORDER:
        run.mark_stage_done(stage, {**stage_inputs(Recipe(**given), stage), "rows": 1})
    assert invalidated(run, Recipe(**given)) == {}
    results = invalidated(run, Recipe(**change | {"tune": given["tune"] | change.get("tune", {})}))
    assert {stage for result in results.values() for stage in result} == stages
    other_task = "name" in change.get("task", {})  # has settings of its own, too
    assert len(results) > 2 if other_task else len(results) == bool(stages)
    assert all(" -> " in text for text in results)


def test_a_merged_model_that_differs_stops_the_run(
    small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = Recipe(base={"model": str(small_base), "dtype": "float32"}, device="cpu", task={"max_new_tokens": 4})
    base = load_model(recipe.base, "cpu")
    model: Any = add_adapter(base.model, LoraSettings(rank=2), 0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.fill_(0.05)
    save_adapter(model, tmp_path / "adapter")
    examples = [Example(str(n), f"计算 {n} + 1\n\n### Response:", str(n + 1), (str(n + 1),)) for n in range(3)]
    rows = [(build_task(recipe.task), example) for example in examples]
    check = merge_and_check(recipe, tmp_path, rows)
    assert check.passed
    assert check.max_logit_difference < 1e-4

    from lotune.model import checkpoints

    def broken(base: Any, folder: Path, **options: Any) -> Any:
        merged: Any = merge(base, folder, **options)
        merged.model.layers[0].self_attn.q_proj.weight.data *= 1.1
        return merged

    merge = checkpoints.merge
    monkeypatch.setattr(checkpoints, "merge", broken)
    with pytest.raises(CheckError):
        merge_and_check(recipe, tmp_path, rows)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_bfloat16_base_is_tuned_with_products_in_bfloat16(small_base: Path, tmp_path: Path, dtype: str) -> None:
    tune = {"epochs": 1, "micro_batch_rows": 8, "learning_rate": 0.01, "warmup_ratio": 0.0}
    recipe = Recipe(runs=tmp_path, device="cpu", base={"model": str(small_base), "dtype": dtype}, tune=tune)
    rows = [EncodedRow(str(number), (5, 6, 7, 0), 2) for number in range(8)]
    write_token_file(recipe.folder / "data" / "train", rows, 300)
    tuning = set_up_tuning(recipe.model_copy(update={"checkpoints": CheckpointSettings(count=1)}), SINGLE_PROCESS)
    assert tuning.session.autocast_bfloat16 == (dtype == "bfloat16")


def test_a_merge_is_compared_on_rows_of_all_sets(small_base: Path, tmp_path: Path) -> None:
    """Validation rows come first, then those of the test and the retained ones; what is too long is left out."""
    recipe = Recipe(base={"model": str(small_base), "dtype": "float32"}, retention={"language": "en"})
    reading = abilities_of(recipe)[0].task
    sets = {
        "validation": [Example(f"v{n}", f"{n} + 1 =", str(n + 1), (str(n + 1),)) for n in range(3)],
        "test": [Example("t0", "1 + 1 =" * 900, "2", ("2",)), Example("t1", "1 + 2 =", "3", ("3",))],
        "retention": evaluation_rows(reading, None, 4, 1),
    }
    for name, examples in sets.items():
        write_jsonl(tmp_path / "data" / f"{name}.jsonl", map(as_record, examples))
    asked = [{"name": name, "rows": len(examples), "too_long": int(name == "test")} for name, examples in sets.items()]
    write_json(tmp_path / "data" / "counts.json", {"asked": asked})
    tokenizer, context = load_tokenizer(recipe.base)
    for expected, names in ((2, 1), (3, 1), (4, 2), (5, 3), (99, 3)):
        files = checked_files(tmp_path, expected)
        assert [file.stem for file in files] == ["validation", "test", "retention"][:names]
    results = list(checked(recipe, rows_of(recipe, files), tokenizer, context))
    assert [item.example.id for item in results] == ["v0", "v1", "v2", "t1", *(item.id for item in sets["retention"])]
    assert [item.task.name for item in results] == ["arithmetic"] * 4 + ["reading"] * 4
    row = encode_row(tokenizer, sets["validation"][0])
    assert results[0].question == MergeCheckRow(row.token_ids, row.completion_start)
    assert all(len(item.question.tokens) <= context for item in results)


def test_a_tuning_depends_on_the_gate_only_if_it_stops_there() -> None:
    watched, stopping = (Recipe(retention=RetentionSettings(action=action)) for action in ("report", "stop"))
    names = {"retention.action", "retention.min_retained"}
    assert not names & stage_inputs(watched, "tune").keys()
    assert names <= stage_inputs(stopping, "tune").keys()
