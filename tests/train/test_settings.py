"""Settings of tuning and of pre-training: one model for what both have, with defaults of their own."""

from lotune.settings_help import describe
from lotune.train.settings import PretrainSettings, TrainingSettings, TuneSettings

FROM_THE_ROWS = {"epochs", "learning_rate", "warmup_ratio"}
"""Settings that a tuning resolves from its rows, and so describes in its own words."""
DIFFERENT_DEFAULTS = {"optimizer", "lr_schedule", "weight_decay", "adam_beta2", "compile"} | FROM_THE_ROWS


def test_settings_shared_by_tuning_and_pretraining_have_one_type_and_one_sentence() -> None:
    tune, pretrain = ({line.key: line for line in describe(model)} for model in (TuneSettings, PretrainSettings))
    shared = tune.keys() & pretrain.keys()
    assert shared == TrainingSettings.model_fields.keys()
    assert all(tune[key].type == pretrain[key].type for key in shared - FROM_THE_ROWS)
    assert all(tune[key].type == f"auto | {pretrain[key].type}" for key in FROM_THE_ROWS)
    assert all(tune[key].sentence == pretrain[key].sentence != "" for key in shared - FROM_THE_ROWS)
    assert {key for key in shared if tune[key].default != pretrain[key].default} == DIFFERENT_DEFAULTS
