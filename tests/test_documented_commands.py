"""Every command of the documentation is run: those of a page in their order, in one folder, on small inputs."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import foreign_models as foreign
import pytest
from test_docs import PAGES, ROOT, commands, fenced, page_name
from typer.testing import CliRunner

from lotune.cli.app import app
from lotune.contest.names import archive_name

NOT_RUN = {
    "make test": "runs this test",
    "make soak": "runs for hours",
    "scripts/check": "a part of make test",
    "scripts/test": "runs this test",
    "make setup": "needs the network; tests/test_makefile.py runs it with a stand-in for Python",
    "python3 -m venv .venv": "the tests have an environment",
    "source .venv/bin/activate": "the tests have an environment",
    ".venv/bin/pip install torch==2.13.0 --index-url https://download.pytorch.org/whl/cpu": "needs the network",
    "pip install torch --index-url https://download.pytorch.org/whl/cpu": "needs the network",
    "pip install .": "needs the network",
    "pip install '.[convert]'": "needs the network",
    "HF_ENDPOINT=https://hf-mirror.com lotune run recipes/mine.yaml base.model=Qwen/Qwen2.5-0.5B": "needs the network",
    "modelscope download --model Qwen/Qwen2.5-0.5B --local_dir qwen": "needs the network",
    "pip install '.[quantize]'": "needs the network",
    "pip install '.[corpus]'": "needs the network",
    "pip install '.[tensorboard]'": "needs the network",
    "pip install '.[vllm]'": "needs the network",
    "pip install '.[serve]'": "needs the network",
    "pip install '.[gguf]'": "needs the network",
    "pip install '.[studio]'": "needs the network",
    "vllm serve runs/demo/checkpoints/step-000825/merged --served-model-name tuned": "needs vLLM",
    "vllm serve BASE --enable-lora --lora-modules tuned=runs/demo/checkpoints/step-000825/adapter": "needs vLLM",
    "llama-server -m demo.gguf --port 8080": "needs llama.cpp",
    "lotune generate --model FOLDER --task arithmetic --data test.jsonl --out answers.jsonl evaluate.engine=vllm": (
        "needs CUDA and vLLM; tests/generate/test_vllm.py runs it with a stand-in for vLLM"
    ),
    "hf download internlm/internlm-7b --local-dir internlm-7b": "needs the network",
    "torchrun --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint node1:29400 --rdzv-id mine"
    " -m lotune run recipes/mine.yaml": "needs two nodes",
}
"""The commands that no test runs, each with the reason."""

STATUS = {"lotune audit --base internlm-7b --rank 16 --targets wq,wo --count 4194304": 1}
"""The exit status of the commands that find a fault."""

RUN = [
    "base.dtype=float32",
    "tune.epochs=1",
    "checkpoints.merge_check_rows=3",
    "retention.rows=4",
    "retention.validation_rows=2",
    "retention.replay.rows=0",
    "retention.repair_steps=5",
    "task.max_new_tokens=8",
]
PRETRAINING = [
    "pretrain.steps=2", "pretrain.step_tokens=128", "pretrain.block_size=64", "pretrain.generated_documents=200",
    "pretrain.validation_fraction=0.2", "pretrain.compile=off", "pretrain.autocast_dtype=float32",
]  # fmt: skip
SHAPE = [
    "pretrain.llama_config.vocab_size=600", "pretrain.llama_config.hidden_size=32",
    "pretrain.llama_config.num_hidden_layers=1", "pretrain.llama_config.intermediate_size=64",
    "pretrain.llama_config.num_attention_heads=2", "pretrain.llama_config.num_key_value_heads=2",
]  # fmt: skip
EXAM = [
    *RUN, "base.model=nano", "checkpoints.count=1", "data.sample.rows=40", "data.validation_rows=4", "data.test_rows=4",
    "exam.answers=4", "tune.steps=2",
]  # fmt: skip
SMALLER = {
    "demo": [
        *RUN, "checkpoints.count=1", "data.generated_rows=32", "data.validation_rows=4", "data.test_rows=12",
        "retention.replay.rows=8",
    ],
    "mine.yaml": [*RUN, "checkpoints.count=1", "data.validation_rows=4", "data.test_rows=8"],
    "rows.yaml": [*RUN, "checkpoints.count=1", "data.validation_rows=2", "data.test_rows=4"],
    "recipes/mine.yaml": [],
    "base.yaml": [*PRETRAINING, *SHAPE],
    "minigpt-zh-small": [*PRETRAINING, *SHAPE],
    "qa.yaml": [*RUN, "checkpoints.count=2", "data.validation_rows=4", "data.test_rows=8", "tune.steps=2"],
    "nano": [*PRETRAINING, *SHAPE],
    "nano-end": PRETRAINING,
    "contest-phase1": [
        *RUN, "base.model=nano", "data.generated_rows=32", "data.validation_rows=4", "data.test_rows=8", "tune.steps=5",
        "tune.micro_batch_rows=4", "retention.rows=1",
    ],
    "contest-phase2": [
        *RUN, "base.model=nano", "data.validation_rows=4", "data.test_rows=8", "tune.steps=5",
        "tune.micro_batch_rows=4", "retention.rows=1",
    ],
    "exam-cola": EXAM,
    "exam-qqp": EXAM,
}  # fmt: skip
"""The settings that make the run of a recipe small."""
NUMBERS = {"--rows": 40, "--limit": 4, "--nproc-per-node": 2, "--rerun": 2}
"""The largest numbers of options that make work."""
LAST_SETTINGS = {
    "retention.replay.rows=1200": "retention.replay.rows=8", "tune.micro_batch_rows=8": "tune.steps=2",
    "data.validation_rows=50": "data.validation_rows=4", "data.test_rows=100": "data.test_rows=8",
}  # fmt: skip
"""Documented settings that make work, and what stands for them."""
QUICK = ("docs/scoring.md", "docs/how-to/a-base-of-your-own.md", "docs/how-to/choices-and-labels.md")

RECIPE = """
device: cpu
base: {{model: '{base}', dtype: float32}}
task: {{scratchpad: false, max_new_tokens: 8}}
data: {{generated_rows: 16, validation_rows: 2, test_rows: 2}}
retention: {{rows: 2, replay: {{rows: 0}}, validation_rows: 0}}
checkpoints: {{count: 1, merged: none}}
tune: {{epochs: 1}}
"""
MINDFORMERS = """
model:
  model_config:
    {type: InternLMConfig, hidden_size: 4096, num_layers: 32, num_heads: 32, vocab_size: 103168, has_bias: True,
     pet_config: {pet_type: lora, lora_rank: 8, target_modules: '.*wk|.*wo'}}
"""
GUIDES = [path for path in PAGES if path.name not in ("CHANGELOG.md", "log.md", "reference.md")]
COMMANDS = {page_name(path): commands(path) for path in [*GUIDES, ROOT / "lotune" / "nano" / "weights" / "README.md"]}
"""The commands of each page that tells a reader what to do."""
ELSEWHERE = ("how-to/serve.md", "how-to/arena.md", "how-to/synthesis.md", "how-to/studio.md")
"""Pages whose commands need servers: test_documented_*.py in tests/serve and tests/studio run them."""
TO_RUN = {
    page: to_run
    for page, lines in COMMANDS.items()
    if (to_run := [line for line in lines if line not in NOT_RUN]) and not page.endswith((".zh.md", *ELSEWHERE))
}


def smaller(command: str, chosen: str, base: Path) -> list[str]:
    """Return the words of a command, with small inputs in the place of large ones."""
    command = command.replace("step-000825", chosen).replace("Qwen/Qwen2.5-0.5B", str(base)).replace("FOLDER", "nano")
    words = [LAST_SETTINGS.get(word, word) for word in shlex.split(command)]
    for place, (option, value) in enumerate(pairwise(words), start=1):
        if option in NUMBERS:
            words[place] = str(min(NUMBERS[option], int(value)))
    named = [word for before, word in pairwise(words) if before not in ("--model", "--base")]
    recipe = next((word for word in named if word in SMALLER), None)
    if recipe is not None and not {"report", "init", "audit", "tokenizer", "corpus"} & set(words):
        place = words.index(recipe) + 1
        words[place:place] = SMALLER[recipe]  # settings of the command stand last and prevail
    elif {"--task", "--prompt"} & set(words) and not {"sample", "text", "grade"} & set(words):
        words.append("task.max_new_tokens=8")
    return words


def expanded(command: str, folder: Path) -> list[str]:
    """Return what a target of the Makefile does once everything is installed; any other command as it is."""
    if not command.startswith("make "):
        return [command]
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    # This test may itself run under make, which passes its options on and then names the folders that it enters.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    words = ["make", "--dry-run", "--old-file=.venv/.installed", "--file", ROOT / "Makefile", *command.split()[1:]]
    made = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return [line.removeprefix(".venv/bin/") for line in made.stdout.splitlines()]


def run(words: list[str]) -> str:
    """Carry out a command, which has to succeed, and return what it prints."""
    program, *rest = words
    if program == "lotune":
        result = CliRunner().invoke(app, rest, input="1 + 1 = ?\n/reset\n/exit\n", prog_name="lotune")
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert result.exit_code == STATUS.get(shlex.join(words), 0), f"{shlex.join(words)}\n{result.stderr}"
        return result.output
    python = {"torchrun": [sys.executable, "-m", "torch.distributed.run"], "python": [sys.executable]}
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*python.get(program, [program]), *rest], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stderr}"
    return done.stdout


def value_of(option: str, words: list[str]) -> str | None:
    return words[words.index(option) + 1] if option in words else None


def files_of(words: list[str]) -> Iterator[str]:
    """Yield the files that a command promises to write."""
    if {"--help", "--list"} & set(words):
        return
    recipe = next((word for word in words if word in SMALLER or word.endswith(".yaml")), "")
    name = next((word.removeprefix("name=") for word in words if word.startswith("name=")), Path(recipe).stem)
    run_files = {
        "run": ("scorecard.json", "report.html", "report.md"),
        "tune": ("tuning.json",),
        "pretrain": ("model/config.json", "pretraining.json"),
    }
    if out := value_of("--out", words) or value_of("--html", words):
        yield out
    elif {"convert", "merge"} & set(words):
        yield f"{words[3]}/config.json"
    elif team := value_of("--team", words):
        yield archive_name(team)
    elif "init" in words:
        yield Path(words[-1]).with_suffix(".yaml").name
    elif "scripts/reference.py" in words:
        yield "docs/reference.md"
    elif "report" in words:
        yield from (f"{words[-1]}/report.html", f"{words[-1]}/report.md")
    elif "--dry-run" not in words:
        for verb in set(run_files) & set(words):
            yield from (f"runs/{name}/{file}" for file in run_files[verb])


def promise(words: list[str]) -> str:
    """Return a pattern of what a command promises to print."""
    if "--help" in words:
        return "Usage: lotune"
    if "--list" in words:
        return "(?m)^demo  "
    if "--from" in words:
        return f"recipe written: lotune run {value_of('--from', words)}.yaml"
    if "--dry-run" in words:  # of a finished run there is nothing to estimate
        return (
            r"rows: \d+ read"
            if Path("runs/demo/scorecard.json").exists() and "rows.yaml" not in words
            else "estimate: "
        )
    patterns = {
        "tokenizer": "tokens per character",  # before its own verb "compare"
        "run": r"VALID: \w+ ", "init": "⟦", "compare": "is better|cannot tell", "head": '"answer":', "chat": "> |\\w",
        "convert": "written: ", "merge": "check: passed on 32 rows", "audit": "base: .* parameters",
        "generate": r"\w", "pip": "torch==", "--check": "passed: checksums", "leaderboard": "place",
        "contest": "accuracy", "exam": "mean over CoLA", "watch": "step \\d+", "inspect": "⟦",
        "corpus": r"articles: \d+ read", "memorization": r"seen at 0 +unseen at 0",
    }  # fmt: skip
    if "evaluate" in words and "--model" in words:
        by_task = {
            "reading": "contest_f1",
            "text": "bits per byte",
            "text_continuation": "rouge_l",
            "arithmetic": "accuracy",
            "choice": "accuracy",
        }
        return by_task[str(value_of("--task", words))]
    return next((pattern for word, pattern in patterns.items() if word in words), "")


def write_inputs(folder: Path, base: Path) -> None:
    """Write the files that pages take for granted: data of the reader, shipped recipes and scripts."""
    (folder / "recipes").mkdir()
    shutil.copytree(ROOT / "scripts", folder / "scripts")
    (folder / "docs").mkdir()
    (folder / "recipes" / "mine.yaml").write_text(RECIPE.format(base=base))
    recipe, *_ = fenced(ROOT / "docs" / "how-to" / "a-base-of-your-own.md", "yaml")
    (folder / "base.yaml").write_text(recipe)
    recipe, *_ = fenced(ROOT / "docs" / "minigpt.md", "yaml")
    (folder / "qa.yaml").write_text(recipe)
    rows = [{"instruction": f"Say {number}.", "output": str(number)} for number in range(24)]
    articles = [{"text": f"Title\n\nArticle {number} is short. This is its end."} for number in range(40)]
    for name, lines in (("rows.jsonl", rows), ("articles.jsonl", articles), ("articles/a.jsonl", articles)):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    choices = "".join(f"How much is {number} + 1?,{number},{number + 1},7,9,B\n" for number in range(10, 18))
    for name in ("test.csv", "mmlu/val/numbers_val.csv"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(choices)
    (folder / "finetune_internlm_7b.yaml").write_text(MINDFORMERS)
    (folder / "dev.csv").write_text(choices.replace(" + 1", " and one more"))
    labels = [number % 2 for number in range(60)]
    for name, shown in (("train", labels), ("dev", [""] * 6)):
        sentences = [f"gj04\t{label}\t\tSentence {number} of {name}.\n" for number, label in enumerate(shown)]
        (folder / f"CoLA_{name}.tsv").write_text("".join(sentences))
        pairs = [f"{number}\t1\t2\tIs {number} odd?\tIs {number} even?\t{label}" for number, label in enumerate(shown)]
        head = "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate"
        (folder / f"QQP_{name}.tsv").write_text("\n".join([head, *pairs]) + "\n")
    (folder / "CoLA_labels.txt").write_text("0\n1\n0\n1\n")
    write_contest_files(folder)
    question = {"id": "1", "question": "Who wrote it?", "answers": [{"text": "Lu Xun", "answer_start": 0}]}
    passage = {"context": "Lu Xun wrote the story.", "qas": [question]}
    (folder / "dev-v1.1.json").write_text(json.dumps({"data": [{"title": "it", "paragraphs": [passage]}]}))
    write_foreign_models(folder)


def write_foreign_models(folder: Path) -> None:
    """Write models in the layouts that they are published in, with random weights."""
    tokens = foreign.llama2c_tokens([(" ", -1.0)])
    config = {**foreign.INTERNLM1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 2}
    foreign.write_internlm(folder / "internlm-7b", config, foreign.internlm_weights(config), "bin")
    for name in ("internlm-7b/tokenizer.bin", "tok320.bin"):
        foreign.write_llama2c_tokenizer(folder / name, tokens)
    foreign.write_llama2c(folder / "stories.bin", foreign.llama2c_weights(True), 1, True)
    foreign.write_nanogpt(folder / "ckpt.pt", foreign.nanogpt_weights(False), False)
    (folder / "gpt2").mkdir()
    characters = [chr(number) for number in (*range(33, 127), *range(161, 173), *range(174, 324))]
    vocabulary = {character: number for number, character in enumerate([*characters, "<|endoftext|>"])}
    (folder / "gpt2" / "encoder.json").write_text(json.dumps(vocabulary))
    (folder / "gpt2" / "vocab.bpe").write_text("#version: 0.2\n")


def write_contest_files(folder: Path) -> None:
    """Write keys, answers and published rows."""
    problems = [
        {"problem": f"计算 {number}.25 + 1.5 等于多少？", "solution": f"{number + 1.75}"} for number in range(4)
    ]
    keys = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in problems)
    (folder / "key.jsonl").write_text(keys)
    (folder / "hidden.jsonl").write_text(keys)
    (folder / "team-answers.txt").write_text("".join(f"{row['solution']}\n" for row in problems))
    choices = [
        {
            "instruction": "Select the correct option and answer with 'The right option is'.",
            "input": f"Question: How much is {number} + 1? \nA.{number}\nB.{number + 1}\nC.7\nD.9",
            "output": "The right option is B.",
        }
        for number in range(10, 50)
    ]
    (folder / "choice.json").write_text(json.dumps(choices))
    (folder / "published.csv").write_text("team,accuracy,ratio,score\nfirst,71.61,0.00679028,0.799232916\n")


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, small_base: Path) -> Path:
    """A folder in which the demo has been run."""
    folder = tmp_path_factory.mktemp("demo")
    write_inputs(folder, small_base)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        [command] = expanded("make demo", folder)
        run(smaller(command, "", small_base))
    return folder


def carry_out(command: str, folder: Path, base: Path) -> None:
    """Carry out a command of a page in its folder, and check what it promises."""
    card = folder / "runs" / "demo" / "scorecard.json"
    chosen = json.loads(card.read_text())["chosen_checkpoint"] if card.exists() else ""
    for line in expanded(command, folder):
        words = smaller(line, chosen, base)
        if "report" in words:
            for file in files_of(words):
                Path(file).unlink()
        printed = run(words)
        assert re.search(promise(words), printed), f"{command}\n{printed}"
        for file in files_of(words):
            assert (folder / file).stat().st_size > 0, f"{command}\n{file}"


def test_only_named_commands_are_not_run() -> None:
    left_out = {line for lines in COMMANDS.values() for line in lines} & set(NOT_RUN)
    assert left_out == set(NOT_RUN)


@pytest.mark.parametrize("path", GUIDES, ids=page_name)
def test_commands_stand_in_shell_blocks(path: Path) -> None:
    """A command in an indented block would not be run."""
    assert not re.findall(r"^ {4,}(?:lotune|make|pip|python|torchrun) .*", path.read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[] if page in QUICK else [pytest.mark.slow]) for page in sorted(TO_RUN)]
)
def test_the_commands_of_a_page_do_what_the_page_says(
    page: str, request: pytest.FixtureRequest, small_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "folder"
    if any("demo" in command for command in TO_RUN[page]):
        shutil.copytree(request.getfixturevalue("demo"), folder, symlinks=True)
    else:
        folder.mkdir()
        write_inputs(folder, small_base)
    monkeypatch.chdir(folder)
    for command in TO_RUN[page]:
        carry_out(command, folder, small_base)
