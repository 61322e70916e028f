"""The claims of a run, gathered from its folder: of one without a merged model, whose checkpoints are evenly spaced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import RECIPE, call

from lotune.data.examples import Example
from lotune.data.token_files import TokenFile
from lotune.evaluate.scorecard_claims import template_claim
from lotune.model.loading import load_tokenizer
from lotune.recipe import Recipe, read_recipe
from lotune.runs import Run
from lotune.stages.answered_sets import AnsweredSet
from lotune.stages.claims import count_overlap, stored_templates
from lotune.tasks.registry import build_task


@pytest.fixture(scope="module")
def run(small_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("claims")
    recipe = folder / "small.yaml"
    recipe.write_text(RECIPE.format(base=small_base))
    call("run", recipe, f"runs={folder}", "checkpoints.merged=none", "checkpoints.spacing=even", "retention.strength=1",
         "retention.action=report")  # fmt: skip
    return folder / "small"


def asked(recipe: Recipe, *examples: Example) -> list[AnsweredSet]:
    return [AnsweredSet("test", build_task(recipe.task), recipe.task, list(examples), "")]


def test_the_claims_stand_on_the_scorecard_and_in_the_report(run: Path) -> None:
    card = json.loads((run / "scorecard.json").read_text())
    claims = {claim["name"]: (claim["passed"], claim["detail"]) for claim in card["claims"]}
    assert list(claims) == ["one template", "merge", "overlap", "gate", "gain", "budget", "spacing"]
    assert {name: passed for name, (passed, _) in claims.items()} == {
        "one template": True, "merge": None, "overlap": True, "gate": False, "gain": False, "budget": None,
        "spacing": True,
    }  # fmt: skip
    assert "no checkpoint was merged" in claims["merge"][1]
    assert claims["spacing"][1] == "after 3, 5 of 5 steps"
    assert "none of 6 test rows, 4 retention rows is a training row" in claims["overlap"][1]
    assert [reason for reason in card["reasons"] if "check" in reason] == []
    for name in ("report.html", "report.md"):
        text = (run / name).read_text(encoding="utf-8")
        assert "Claims" in text
        assert "not applicable" in text
        assert "no checkpoint was merged" in text


def test_a_training_row_among_the_test_rows_is_found(run: Path) -> None:
    recipe = read_recipe(run / "recipe.yaml")
    tokenizer: Any = load_tokenizer(recipe.base)[0]
    row = TokenFile(run / "data" / "train")[2]
    prompt = tokenizer.decode(row.token_ids[: row.completion_start])
    trained, other = Example("1", prompt, "2"), Example("2", prompt.replace("计算", "算一算"), "2")
    sets = asked(recipe, trained, other)
    assert count_overlap(Run(run), sets, tokenizer) == {"test": 1}
    assert count_overlap(Run(run), asked(recipe, other), tokenizer) == {"test": 0}


def test_without_the_tokens_of_the_training_nothing_is_claimed(run: Path, tmp_path: Path) -> None:
    assert count_overlap(Run(tmp_path), [], None) is None


def test_another_template_in_a_checkpoint_is_found(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    file = tmp_path / "checkpoints" / "step-000003" / "adapter" / "lotune_template.json"
    before = json.loads(file.read_text())
    file.write_text(json.dumps({**before, "name": "mine", "with_input": "{instruction}{input}"}))
    stored = stored_templates(Run(tmp_path), ["step-000003", "step-000005"])
    claim = template_claim(before, stored)
    assert claim.result == "failed"
    assert "step-000003/adapter carries 'mine', the evaluation used 'alpaca'" in claim.detail
