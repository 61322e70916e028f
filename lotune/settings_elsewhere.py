"""Names of settings in other programs, for the suggestions of errors.

The names are those of transformers' TrainingArguments, PEFT, LLaMA-Factory, Axolotl, Unsloth and MindFormers.
"""

from __future__ import annotations

from collections.abc import Mapping

SETTINGS_ELSEWHERE: Mapping[str, tuple[str, ...]] = {
    "base": ("model_config", "model_args"),
    "data": ("dataset_config", "data_args"),
    "adapter": ("lora", "peft", "lora_config", "peft_config"),
    "tune": ("training", "trainer", "training_args", "finetune"),
    "name": ("run_name", "experiment_name", "project_name"),
    "runs": ("output_dir", "out_dir", "save_dir", "logging_dir"),
    "seed": ("random_state", "random_seed", "data_seed"),
    "device": ("use_cuda", "use_cpu", "no_cuda", "device_map", "accelerator"),
    "threads": ("num_threads", "cpu_threads"),
    "save_every_minutes": ("save_steps", "save_interval", "save_strategy"),
    "base.model": (
        "base_model", "model_name", "model_id", "model_path", "model_name_or_path", "model_type",
        "pretrained_model", "pretrained_model_name_or_path",
    ),
    "base.dtype": ("torch_dtype", "precision", "bf16", "fp16", "compute_dtype", "mixed_precision"),
    "task.template": ("chat_template", "prompt_template", "prompt_style"),
    "task.columns": ("field_mapping", "column_mapping", "dataset_text_field"),
    "task.labels": ("label2id", "id2label", "label_names", "class_names"),
    "task.scorer": ("metric", "metrics", "compute_metrics"),
    "task.max_new_tokens": ("max_tokens", "generation_max_length", "max_target_length", "max_output_length"),
    "task.train_on_turns": ("mask_history", "roles_to_train"),
    "data.train": (
        "dataset", "datasets", "dataset_name", "dataset_path", "data_path", "data_files", "train_data",
        "train_dataset", "train_file", "train_dataset_dir",
    ),
    "data.validation": (
        "eval_dataset", "eval_file", "valid_file", "validation_file", "validation_data", "val_data",
    ),
    "data.test": ("test_file", "test_data", "test_dataset", "test_datasets"),
    "data.validation_rows": ("val_size", "val_set_size", "eval_size", "validation_size", "max_eval_samples"),
    "data.test_rows": ("test_size", "max_test_samples", "max_predict_samples"),
    "data.sample.rows": ("max_samples", "max_train_samples", "num_samples"),
    "data.max_length": (
        "cutoff_len", "max_seq_length", "max_seq_len", "max_sequence_length", "model_max_length", "seq_length",
        "seq_len", "sequence_len", "max_source_length", "context_length",
    ),
    "adapter.method": ("peft_type", "pet_type", "finetuning_type", "tuner_type", "peft_method"),
    "adapter.init_from": ("adapter_name_or_path", "lora_model_dir", "adapter_path", "resume_from_adapter"),
    "adapter.rank": ("r", "lora_r", "lora_rank"),
    "adapter.alpha": ("lora_alpha",),
    "adapter.dropout": ("lora_dropout",),
    "adapter.target_modules": ("lora_target", "lora_target_modules", "target_layers", "lora_target_linear"),
    "adapter.num_virtual_tokens": ("prompt_length", "num_prompt_tokens", "soft_prompt_length"),
    "adapter.init_text": ("prompt_tuning_init_text",),
    "tune.epochs": ("num_train_epochs", "num_epochs", "n_epochs", "epoch", "train_epochs", "max_epochs"),
    "tune.steps": ("max_steps", "max_iters", "num_steps", "train_steps", "num_train_steps", "total_steps"),
    "tune.optimizer": ("optim", "optimizer_name", "optimizer_type"),
    "tune.learning_rate": ("lr", "max_lr", "peak_lr", "base_lr"),
    "tune.lr_schedule": ("lr_scheduler", "lr_scheduler_type", "scheduler", "scheduler_type", "lr_decay_style"),
    "tune.warmup_ratio": ("warmup", "warmup_proportion", "warmup_fraction"),
    "tune.warmup_steps": ("num_warmup_steps", "warmup_iters"),
    "tune.min_lr_ratio": ("min_lr", "min_learning_rate", "cosine_min_lr_ratio", "min_lr_rate"),
    "tune.weight_decay": ("wd", "decay"),
    "tune.adam_epsilon": ("eps", "adam_eps"),
    "tune.max_grad_norm": ("max_gradient_norm", "clip_grad", "grad_clip", "gradient_clipping", "gradient_clip_val"),
    "tune.compile": ("torch_compile",),
    "tune.gradient_checkpointing": ("use_gradient_checkpointing", "disable_gradient_checkpointing", "recompute"),
    "tune.micro_batch_rows": (
        "batch_size", "micro_batch_size", "per_device_train_batch_size", "train_batch_size",
        "train_micro_batch_size_per_gpu",
    ),
    "tune.gradient_accumulation_steps": ("gradient_accumulation", "grad_accum", "accumulate_grad_batches"),
    "tune.quantization": (
        "bits", "load_in_4bit", "load_in_8bit", "quantization_bit", "quantization_config", "bnb_4bit_quant_type",
    ),
    "tune.tensorboard": ("report_to", "use_tensorboard"),
    "checkpoints.count": ("saves_per_epoch", "save_total_limit", "num_checkpoints"),
    "checkpoints.merged": ("merge", "merge_lora", "merge_weights", "merge_adapter"),
    "retention.replay.rows": ("replay", "replay_rows", "replay_ratio", "mix_rows"),
    "evaluate.max_batch_tokens": ("eval_batch_size", "per_device_eval_batch_size"),
    "evaluate.engine": ("infer_backend", "inference_backend", "use_vllm"),
}  # fmt: skip
"""Names that other programs give to a setting or a group of settings, by its dotted key here."""


def meant_setting(name: str) -> str:
    """Return the dotted key of the setting that other programs call by a name; empty if there is none.

    >>> meant_setting("lora_alpha"), meant_setting("LR"), meant_setting("colour")
    ('adapter.alpha', 'tune.learning_rate', '')
    """
    plain = name.lower().replace("-", "_")
    return next((key for key, names in SETTINGS_ELSEWHERE.items() if plain in names), "")
