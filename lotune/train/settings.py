"""Settings of tuning, of its checkpoints, and of pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from lotune.data.blocks import Chunking
from lotune.data.cleaning import Cleaning
from lotune.data.duplicates import Deduplicate
from lotune.data.sentences import SENTENCE_ENDS
from lotune.settings import AUTO, AutoCount, AutoFraction, AutoPositiveFloat, AutoRate, Settings, Switch


class CheckpointSettings(Settings):
    """How many checkpoints are saved, and which of them are merged."""

    count: int = Field(5, ge=1)
    """How many checkpoints to save and validate, evenly spaced over the training."""
    spacing: Literal["auto", "even", "adaptive"] = "auto"
    """even: all planned steps are trained; adaptive: the tuning ends early once validation no longer rises; auto:
    adaptive if tune.epochs is auto."""
    merged: Literal["auto", "all", "chosen", "none"] = "auto"
    """Which checkpoints are also saved as complete merged models; auto: the chosen one, if the method can be merged."""
    merge_check_rows: int = Field(200, ge=1)
    """Real rows on which a merged model is compared with the adapted one: validation rows first, then test rows, then
    retention rows. Below 200 rows, changed verdicts do not stop the run."""


class TrainingSettings(Settings):
    """The settings that tuning and pre-training share: length, optimiser, learning rate, and how steps are computed."""

    epochs: float = Field(1.0, gt=0)
    """Passes over the training rows."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps; overrides epochs."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """Optimizer of the matrices; with muon, AdamW still trains embeddings, norms and output head. A sharded
    pre-training needs adamw."""
    learning_rate: float = Field(1e-3, gt=0, le=1)
    """Peak learning rate."""
    lr_schedule: Literal["cosine", "linear", "constant", "wsd"] = "cosine"
    """Course of the learning rate after the warm-up."""
    decay_ratio: float = Field(0.2, gt=0, lt=1)
    """Fraction of the steps in which the learning rate falls at the end: with wsd, or if a tuning ends early."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Fraction of the steps in which the learning rate rises from zero."""
    warmup_steps: int | None = Field(None, ge=0)
    """Warm-up steps; overrides warmup_ratio."""
    min_lr_ratio: float = Field(0.0, ge=0, le=1)
    """Learning rate at the last step, as a fraction of the peak."""
    weight_decay: float = Field(0.0, ge=0)
    """Weight decay of the matrices."""
    adam_beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of AdamW's mean of the gradients."""
    adam_beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of AdamW's mean of the squared gradients."""
    adam_epsilon: float = Field(1e-8, gt=0)
    """Constant that AdamW adds to its denominator, so that the division stays finite."""
    max_grad_norm: float = Field(1.0, ge=0)
    """Maximum gradient norm; larger gradients are scaled down to it. 0 turns clipping off."""
    compile: Switch = "auto"
    """Whether to compile the model; auto: on a GPU only."""
    gradient_checkpointing: bool = False
    """Whether to recompute activations in the backward pass, which saves memory and takes about a third more time."""
    tensorboard: bool = False
    """Whether to write TensorBoard files (needs pip install '.[tensorboard]')."""


class TuneSettings(TrainingSettings):
    """How the adapter is trained. What is auto follows from the rows, the base and the method."""

    epochs: AutoPositiveFloat = AUTO
    """Passes over the training rows; auto: some hundreds of steps, fewer if validation no longer improves."""
    learning_rate: AutoRate = AUTO
    """Peak learning rate; auto: from the base's width, its architecture and the method."""
    lr_schedule: Literal["cosine", "linear", "constant", "wsd"] = "wsd"
    warmup_ratio: AutoFraction = AUTO
    """Fraction of the steps in which the learning rate rises from zero; auto: 3 %, but at least ten steps."""
    micro_batch_rows: AutoCount = AUTO
    """Micro-batch size: maximum number of rows in one forward pass; auto: 8 to 32, by number and length of the rows."""
    max_batch_tokens: int = Field(16_384, ge=1)
    """Maximum number of tokens in one forward pass; a larger micro-batch is split, which does not change the loss."""
    gradient_accumulation_steps: int = Field(1, ge=1)
    """Number of micro-batches whose gradients make up one step; the loss is normalised over the whole step."""
    quantization: Literal["none", "8bit", "4bit"] = "none"
    """Whether to keep the base's frozen linear weights in 8 or 4 bits (needs pip install '.[quantize]')."""
    max_divergence: float | None = Field(None, gt=0)
    """Largest KL(base‖tuned), in nats per token of the replay rows, or of the validation prompts if there are none. It
    is measured at each checkpoint, and a tuning above it ends early; null: no limit."""


class LlamaSettings(Settings):
    """Shape of a Llama model that is trained from scratch."""

    vocab_size: int = Field(4096, ge=260)
    """Tokens in the vocabulary."""
    hidden_size: int = Field(384, ge=8)
    """Hidden size."""
    num_hidden_layers: int = Field(6, ge=1)
    """Number of layers."""
    num_attention_heads: int = Field(6, ge=1)
    """Attention heads of a layer."""
    num_key_value_heads: int = Field(6, ge=1)
    """Key and value heads of a layer."""
    intermediate_size: int = Field(1024, ge=8)
    """Hidden size of the feed-forward part."""
    max_position_embeddings: int = Field(1024, ge=16)
    """Context in tokens."""
    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary position angles."""
    tie_word_embeddings: bool = True
    """Whether input and output embeddings share their weights."""

    @model_validator(mode="after")
    def _check_heads(self) -> LlamaSettings:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of {self.num_attention_heads} heads")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ValueError(
                f"{self.num_attention_heads} heads are not a multiple of {self.num_key_value_heads} key heads"
            )
        return self


class CleaningRuleSettings(Settings):
    """A rule of cleaning."""

    name: str = Field(min_length=1)
    """Name of the rule, by which its hits are counted."""
    pattern: str = Field(min_length=1)
    """Regular expression of what is replaced."""
    replacement: str = ""
    """Text in its place, in which \\1 is the first group of the pattern."""


class PretrainSettings(TrainingSettings):
    """How a base model is trained on your own articles, or on text that lotune generates."""

    optimizer: Literal["adamw", "muon"] = "muon"
    learning_rate: float = Field(2e-3, gt=0, le=1)
    warmup_ratio: float = Field(0.1, ge=0, lt=1)
    weight_decay: float = Field(0.1, ge=0)
    adam_beta2: float = Field(0.95, ge=0, lt=1)
    compile: Switch = "off"
    init_from: Path | None = None
    """Folder of a model to continue from, with its tokeniser and its shape; null starts from scratch."""
    corpus: Path | None = None
    """File or folder of articles (jsonl, json, txt, parquet; also as .gz and .zst) to train on; null generates the text
    of nano."""
    cleaning: Cleaning = "none"
    """How to clean articles; wiki removes title, line breaks and the empty brackets that extraction leaves."""
    cleaning_rules: list[CleaningRuleSettings] = Field(default_factory=list)
    """Rules of cleaning to apply after these, in their order: a list of name, pattern, replacement."""
    text_key: str = "text"
    """Key, or column, of the articles' text in jsonl, json and parquet files."""
    deduplicate: Deduplicate = "exact"
    """Which articles to remove as duplicates of an earlier one: none, exact copies, or near copies (needs pip install
    '.[corpus]')."""
    near_duplicate_similarity: float = Field(0.8, gt=0, le=1)
    """Jaccard similarity of character 5-grams from which on two articles are near copies."""
    chunking: Chunking = "sentences"
    """How articles become blocks: sentences fills them with whole sentences, first_block keeps only the first of an
    article, stream cuts one long stream of tokens."""
    block_size: int | None = Field(None, ge=8)
    """Maximum number of tokens in a block; null takes the model's context."""
    sentence_ends: list[str] = Field(default_factory=lambda: list(SENTENCE_ENDS), min_length=1)
    """Texts after which a sentence ends; where no letter or digit follows, if they are ASCII."""
    score_eot: Switch = "auto"
    """Whether the end-of-text token of an article is in the loss; auto: not with a corpus. A model that never learns it
    goes on after an article's end."""
    sampling: Literal["epochs", "with_replacement"] = "epochs"
    """Order of the blocks: each block once per epoch, or drawn at random with replacement."""
    generated_documents: int = Field(200_000, ge=1)
    """Documents to generate if no corpus is given."""
    tokenizer: Path | None = None
    """Folder of a tokeniser, in the layout of Hugging Face, GPT-2, SentencePiece or tiktoken, or a name of the hub;
    null trains one on the text."""
    config_file: Path | None = None
    """A config.json, or its folder, of any architecture of transformers; null builds a Llama of `llama_config`."""
    architecture: dict[str, Any] = Field(default_factory=dict)
    """The content of a config.json in place of a file: model_type, such as gpt2, and its dimensions."""
    llama_config: LlamaSettings = Field(default_factory=LlamaSettings)
    step_tokens: int = Field(4096, ge=1)
    """Maximum number of tokens in one step."""
    micro_batch_tokens: int | None = Field(None, ge=1)
    """Maximum number of tokens in one forward pass; null takes the whole step. The loss stays that of the step."""
    autocast_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Autocast dtype of matrix products; weights and optimizer state stay float32. auto: bfloat16 if clearly faster."""
    validation_fraction: float = Field(0.005, gt=0, lt=1)
    """Fraction of the documents to hold out for the validation loss."""
    validate_every: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Steps between two validations, each with samples; 0 validates at the end only; auto: ten times in all."""
    patience: int | None = Field(None, ge=1)
    """The pre-training ends after so many validations in a row without a lower loss; null: it trains all steps. The
    learning rate does not fall first, so combine it with a constant one, or take model-best."""
    sample_prompts: list[str] = Field(default_factory=list)
    """Texts that the model continues at each validation; none: the beginnings of three held-out blocks."""
    sample_tokens: int = Field(60, ge=0)
    """Maximum number of tokens of a sample; 0: no samples."""
    sample_temperature: float = Field(0.8, ge=0)
    """Sampling temperature of the samples; 0 is greedy."""
    continuation_rows: int = Field(100, ge=0)
    """Held-out articles whose first sentence the finished model continues, to be compared with the rest by ROUGE-L."""
    continuation_tokens: int = Field(100, ge=1)
    """Maximum number of tokens of such a continuation, which is sampled like a sample."""
    export_to: Path | None = None
    """Folder into which the finished model is copied."""

    @model_validator(mode="after")
    def _check_init_from(self) -> PretrainSettings:
        given = [name for name in ("tokenizer", "config_file", "architecture") if getattr(self, name)]
        if self.init_from is not None and given:
            raise ValueError(f"init_from brings its own {given[0]}: give one of the two")
        if self.config_file is not None and self.architecture:
            raise ValueError("config_file and architecture both describe the model: give one of the two")
        return self
