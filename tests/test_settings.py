"""Settings: what is read, what is refused and how it is said, and the help."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from lotune.errors import SettingsError
from lotune.recipe import Recipe, read_recipe
from lotune.recipes import shipped
from lotune.settings import flatten, read_settings
from lotune.settings_elsewhere import SETTINGS_ELSEWHERE
from lotune.settings_help import describe
from lotune.stages.dependencies import STAGE_KEYS, stage_inputs

RECIPES = sorted(shipped.FOLDER.glob("*.yaml"))


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_file_and_overrides(tmp_path: Path) -> None:
    path = write(tmp_path, "seed: 3\ndata:\n  generated_rows: 10\n  sample: {stratify: equal}\n")
    words = ["data.generated_rows=20", "tune.learning_rate=1e-4", "adapter.target_modules=[q_proj, o_proj]"]
    recipe = read_recipe(path, words)
    assert (recipe.name, recipe.seed, recipe.data.generated_rows) == ("mine", 3, 20)
    assert recipe.data.sample.stratify == "equal"
    assert recipe.tune.learning_rate == 1e-4
    assert recipe.adapter.target_modules == ["q_proj", "o_proj"]
    assert recipe.folder == Path("runs/mine")


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_are_short_and_read(path: Path) -> None:
    assert read_recipe(path).name == path.stem
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 30


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert read_settings(Recipe, write(tmp_path, "# nothing\n")) == Recipe()


def test_all_faults_at_once_in_three_lines(tmp_path: Path) -> None:
    faults = "data: {generated_rwos: 3}\nlearning_rate: 1\ntask: {scorer: sometimes}\nadapter: {rank: 0}\n"
    path = write(tmp_path, faults)
    with pytest.raises(SettingsError) as caught:
        read_recipe(path, ["tune.epochs=many", "base.modle=nano"])
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) <= 3
    assert "data.generated_rwos: did you mean data.generated_rows?" in message
    assert "learning_rate: did you mean tune.learning_rate?" in message
    assert "adapter.rank is 0" in message
    assert "task.scorer is 'sometimes'" in message
    assert "tune.epochs is 'many'" in message
    assert "base.modle: did you mean base.model? (command line)" in message


@pytest.mark.parametrize(
    ("override", "meant"),
    [
        ("tune.lr=1", "tune.lr: did you mean tune.learning_rate?"),
        ("lr=1", "lr: did you mean tune.learning_rate?"),
        ("pretrain.lr=1", "pretrain.lr: did you mean pretrain.learning_rate?"),
        ("learning_rate=1", "learning_rate: did you mean tune.learning_rate?"),
        ("adapter.learning_rate=1", "adapter.learning_rate: did you mean tune.learning_rate?"),
        ("adapter.r=8", "adapter.r: did you mean adapter.rank?"),
        ("r=8", "r: did you mean adapter.rank?"),
        ("adapter.lora_alpha=8", "adapter.lora_alpha: did you mean adapter.alpha?"),
        ("adapter.rnak=8", "adapter.rnak: did you mean adapter.rank?"),
        ("tune.num_train_epochs=3", "tune.num_train_epochs: did you mean tune.epochs?"),
        ("per_device_train_batch_size=8", "per_device_train_batch_size: did you mean tune.micro_batch_rows?"),
        ("cutoff_len=512", "cutoff_len: did you mean data.max_length?"),
        ("tune.max-seq-length=512", "tune.max-seq-length: did you mean data.max_length?"),
        ("lora={r: 8}", "lora: did you mean adapter?"),
        ("qqqqq=1", "qqqqq is not a setting"),
        ("task.mixture=raw", "task.mixture is not a setting of custom, which has "),
    ],
)
def test_unknown_settings_are_suggested(override: str, meant: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_settings(Recipe, None, ["task.name=custom", override])
    assert meant in caught.value.found


def test_names_of_other_programs_stand_for_one_setting_each() -> None:
    described = {setting.key for setting in describe(Recipe)}
    known = described | {key.partition(".")[0] for key in described}
    assert set(SETTINGS_ELSEWHERE) <= known
    names = [name for further in SETTINGS_ELSEWHERE.values() for name in further]
    assert len(set(names)) == len(names)
    # A name that a setting has here as well would never be reached in its own group.
    assert not set(names) & {key.rpartition(".")[2] for key in described}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("seed: [", "mine.yaml:"),
        ("- 1\n- 2\n", "holds a list"),
        ("seed: 1\nseed: 2\n", "repeated keys: seed (line 2)"),
        ("data: {rows: 1, rows: 2}\n", "repeated keys: rows (line 1)"),
        ("data: 3\n", "data is 3"),
        (
            "pretrain: {llama_config: {hidden_size: 100}}\n",
            "pretrain.llama_config: hidden_size 100 is not a multiple of 6 heads",
        ),
        ("? [a, b]\n: 1\n", "mine.yaml"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_recipe(write(tmp_path, text))
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("override", ["data.generated_rows", "=3", "seed.inner=1", "seed=[", "data.generated_rows=0"])
def test_bad_overrides(tmp_path: Path, override: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_recipe(write(tmp_path, "seed: 1\n"), [override])
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize("text", [
    "{question}", "Q: {question}", "a: b: c", "Is it so? # or not", "[a", "007", "yes", "1e5", "", "- one", "it's",
    " kept ", "#",
])  # fmt: skip
def test_a_text_is_taken_verbatim(text: str) -> None:
    assert read_settings(Recipe, None, ["task.name=custom", f"task.prompt={text}"]).task.prompt == text
    assert read_settings(Recipe, None, ["task.name=custom", f"task.labels.a={text}"]).task.labels == {"a": text}


def test_overrides_that_are_not_plain_text() -> None:
    words = [
        "task.name=custom",
        "task.prompt='{question}'",
        "task.scorer=exact",
        "data.train=a: b.csv",
        "adapter.target_modules=[q_proj]",
    ]
    recipe = read_settings(Recipe, None, [*words, "task.labels={a: 'no', b: 'yes'}"])
    assert (recipe.task.prompt, recipe.task.scorer, recipe.data.train) == ("{question}", "exact", Path("a: b.csv"))
    assert (recipe.adapter.target_modules, recipe.task.labels) == (["q_proj"], {"a": "no", "b": "yes"})


@pytest.mark.parametrize("labels", ["{no: a, yes: b}", "{a: no, b: yes}"])
def test_bare_yes_and_no_among_labels_are_to_be_quoted(tmp_path: Path, labels: str) -> None:
    for file, words in (
        ("", ["task.name=custom", f"task.labels={labels}"]),
        (f"task: {{name: custom, labels: {labels}}}", []),
    ):
        with pytest.raises(SettingsError, match="remedy: quote it: YAML reads a bare yes, no"):
            read_recipe(write(tmp_path, file), words)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read: No such file"):
        read_recipe(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingsError, match="not UTF-8"):
        read_recipe(tmp_path / "binary.yaml")


@pytest.mark.parametrize(("word", "expected"), [("on", "on"), ("off", "off"), ("auto", "auto"), ("'on'", "on")])
@pytest.mark.parametrize("key", ["fsdp", "tune.compile", "pretrain.compile"])
def test_switches_are_on_off_or_auto(tmp_path: Path, key: str, word: str, expected: str) -> None:
    """YAML reads a bare on and off as truth values; in a file and as an override they mean what they say."""
    *group, field = key.split(".")
    text = f"{group[0]}: {{{field}: {word}}}\n" if group else f"{field}: {word}\n"
    for recipe in (read_recipe(write(tmp_path, text)), read_recipe(write(tmp_path, ""), [f"{key}={word}"])):
        assert getattr(getattr(recipe, group[0]) if group else recipe, field) == expected


@pytest.mark.parametrize("word", ["1", "maybe", "null", "[on]"])
def test_values_that_are_not_switches_are_refused(tmp_path: Path, word: str) -> None:
    with pytest.raises(SettingsError, match=r"fsdp is .*: input should be 'auto', 'on' or 'off'"):
        read_recipe(write(tmp_path, f"fsdp: {word}\n"))


def test_none_stays_a_word(tmp_path: Path) -> None:
    assert read_recipe(write(tmp_path, ""), ["checkpoints.merged=none"]).checkpoints.merged == "none"
    assert read_recipe(write(tmp_path, "tune: {quantization: none}\n")).tune.quantization == "none"


@pytest.mark.parametrize("judge", ["exact", "significant:5", "decimals:2", "relative:1e-4", "relative:0.001"])
def test_scorers(tmp_path: Path, judge: str) -> None:
    assert read_recipe(write(tmp_path, ""), [f"task.scorer={judge}"]).task.scorer == judge


def test_every_field_has_help() -> None:
    lines = describe(Recipe)
    assert [line.key for line in lines if not line.sentence.endswith(".")] == []
    assert len({line.key for line in lines}) == len(lines)
    assert next(line for line in lines if line.key == "data.train").type == "path | null"


def test_stage_keys_name_settings() -> None:
    known = [line.key for line in describe(Recipe)]
    groups = {key.rsplit(".", count)[0] for key in known for count in range(key.count(".") + 1)}
    assert {key for keys in STAGE_KEYS.values() for key in keys} <= groups


def test_stage_inputs(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, "data: {train: rows.jsonl}\n"))
    assert stage_inputs(recipe, "prepare")["data.train"] == Path("rows.jsonl")
    assert "tune.epochs" not in stage_inputs(recipe, "prepare")
    assert stage_inputs(recipe, "prepare")["form of texts"] >= 2  # rows of an older lotune's working are made anew
    assert "device" not in stage_inputs(recipe, "evaluate")
    assert set(stage_inputs(recipe, "tune")) < set(stage_inputs(recipe, "evaluate"))


@given(rows=st.integers(1, 10**9), rate=st.floats(1e-9, 1), name=st.text("abc-_", min_size=1))
def test_a_written_recipe_reads_back(rows: int, rate: float, name: str) -> None:
    words = [f"data.generated_rows={rows}", f"tune.learning_rate={rate!r}", f"name='{name}'"]
    recipe = read_settings(Recipe, None, words)
    values = flatten(recipe)
    assert (values["data.generated_rows"], values["tune.learning_rate"], values["name"]) == (rows, rate, name)
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize("name", ["nano", "nano-end"])
def test_the_recipes_of_nano_do_not_hang_on_defaults_of_pre_training(name: str) -> None:
    """Its weights come from these recipes: they say themselves what defaults may change."""
    output = yaml.safe_load((RECIPES[0].parent / f"{name}.yaml").read_text(encoding="utf-8"))["pretrain"]
    assert {
        "learning_rate",
        "optimizer",
        "step_tokens",
        "warmup_ratio",
        "weight_decay",
        "autocast_dtype",
    } <= output.keys()
