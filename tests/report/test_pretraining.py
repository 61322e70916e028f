"""The report of a pre-training: what it says is what the run's files say, and nothing in it is taken for markup."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from command_line import call

from lotune.errors import RunError
from lotune.report.pretraining import collect_pretraining, render_pretraining_markdown, render_pretraining_page

HOSTILE = "<script>alert(1)</script> |*b*| ‮end"
RECIPE = """
seed: 2
device: cpu
pretrain:
  corpus: ARTICLES
  cleaning: wiki
  step_tokens: 512
  steps: 6
  validate_every: 3
  validation_fraction: 0.2
  sample_tokens: 4
  sample_prompts: ["The sun", "<b>"]
  llama_config: {vocab_size: 320, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, num_key_value_heads: 2,
    intermediate_size: 32}
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pretraining")
    lines = (json.dumps({"text": f"Title\n\nThe sun warms stone {number}. （）It sees it."}) for number in range(40))
    (folder / "articles.jsonl").write_text("".join(f"{line}\n" for line in lines))
    recipe = folder / "small.yaml"
    recipe.write_text(RECIPE.replace("ARTICLES", str(folder / "articles.jsonl")))
    call("pretrain", recipe, f"runs={folder / 'runs'}")
    return folder / "runs" / "small"


def test_it_says_what_the_run_measured(folder: Path) -> None:
    figures = json.loads((folder / "pretraining.json").read_text())
    page, markdown = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    for text in (page, markdown):
        assert f"{figures['parameters']:,} parameters" in text.replace("\\", "")
        assert f"{figures['bits_per_byte']:.3f}" in text
        for title in ("Training", "Samples", "Corpus", "Cleaning", "Blocks", "Tokeniser", "Settings", "Repeat it"):
            assert title in text
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [line["step"] for line in samples] == [3, 3, 6, 6]
    assert all(f"| {line['step']} | {line['continuation'][:1]}" in markdown for line in samples)
    assert "| empty （） | 40 | 40 |" in markdown
    assert "name=small-again" in markdown
    assert page.count("<svg") > 2
    assert "<script" not in page
    assert "&lt;b&gt;" in page


def test_it_is_written_again_on_request(folder: Path) -> None:
    before = (folder / "report.html").read_bytes()
    (folder / "report.html").unlink()
    assert json.loads(call("report", folder, "--json").stdout)["html"] == str(folder / "report.html")
    assert (folder / "report.html").read_bytes() == before


def test_what_a_model_wrote_is_escaped(folder: Path) -> None:
    report = collect_pretraining(folder, HOSTILE, [], f"lotune pretrain {HOSTILE}")
    samples = tuple(type(one)(one.step, HOSTILE, HOSTILE) for one in report.samples)
    hostile = type(report)(**{**vars(report), "samples": samples, "recipe": HOSTILE})
    page = render_pretraining_page(hostile)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 4
    assert "‮" not in page
    markdown = render_pretraining_markdown(hostile)
    assert "<script" not in re.sub(r"^(`{3,})\n.*?^\1$", "", markdown, flags=re.MULTILINE | re.DOTALL)
    assert "‮" not in markdown


def test_a_folder_without_a_pre_training_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"has no recipe\.yaml, environment\.json, metrics\.jsonl, pretraining\.json"):
        collect_pretraining(tmp_path, "x", [], "")
