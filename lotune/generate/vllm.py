"""vLLM as the backend of an engine, for the GPUs that it supports; it is the optional dependency `vllm`.

vLLM reads the model's folder itself: weights from safetensors only, and no code of the folder.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from lotune.errors import ModelError, install_extra
from lotune.generate.requests import Request
from lotune.generate.running import RunningRequest, TokenSelector
from lotune.model.loading import base_folder, dtype_name, resolve_device, resolve_dtype
from lotune.model.settings import BaseSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REQUESTS_PER_CALL = 1024
"""Requests of one call to vLLM, which returns their answers together."""


class VllmModel:
    """A model loaded by vLLM, which brings its own continuous batching and paged attention.

    Raises: ModelError if vLLM is not installed or cannot load the model.
    """

    def __init__(self, settings: BaseSettings, tokenizer: PreTrainedTokenizerBase) -> None:
        from transformers import AutoConfig, GenerationConfig

        library, dtype = _library(), resolve_dtype(settings.dtype, resolve_device("auto"))
        self.name_or_path, self.tokenizer = settings.model, tokenizer
        folder = base_folder(settings)
        source = str(folder) if folder is not None else settings.model
        with as_model_error(settings.model):
            self.config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            self.llm: Any = library.LLM(
                model=source,
                tokenizer=source,
                dtype=dtype_name(dtype),
                load_format="safetensors",
                trust_remote_code=False,
            )
        try:
            self.generation_config = GenerationConfig.from_pretrained(source)
        except OSError:  # a folder need not have one
            self.generation_config = GenerationConfig.from_model_config(self.config)
        self.sampling_params = library.SamplingParams


class VllmBackend:
    """Answers waiting requests with vLLM, REQUESTS_PER_CALL at a time; vLLM itself budgets the memory."""

    def __init__(self, model: VllmModel) -> None:
        self.model = model
        self.waiting: list[RunningRequest] = []
        self.running: list[RunningRequest] = []
        self.whole_answers = False

    def check(self, request: Request) -> None:
        """Raise ModelError for a request with an adapter or a deadline, which this backend does not support."""
        if request.adapter is not None or request.timeout_seconds is not None:
            found = "vllm supports no adapter and no deadline of a single request"
            raise ModelError("evaluate.engine", found, remedy="evaluate.engine=lotune")

    def session(self) -> AbstractContextManager[None]:
        """Do nothing: vLLM's model is always ready."""
        return nullcontext()

    def add(self, rows: list[RunningRequest]) -> None:
        """Add rows to those that wait."""
        self.waiting += rows

    def remove_ended(self) -> None:
        """Remove the waiting rows that have an outcome; no row runs between steps."""
        self.waiting = [row for row in self.waiting if row.outcome is None]

    def reset(self) -> None:
        """Forget the rows of a call that failed."""
        self.running = []

    def step(self, selector: TokenSelector, batch_tokens: int) -> None:
        """Answer the next rows in one call to vLLM."""
        self.running, self.waiting = self.waiting[:REQUESTS_PER_CALL], self.waiting[REQUESTS_PER_CALL:]
        prompts = [{"prompt_token_ids": list(row.request.prompt_ids)} for row in self.running]
        parameters = [self._sampling_params(row.request, selector) for row in self.running]
        if prompts:
            with as_model_error(self.model.name_or_path):
                outputs = self.model.llm.generate(prompts, parameters, use_tqdm=False)
            for row, output in zip(self.running, outputs, strict=True):
                self._finish(row, output.outputs[0], selector)
        self.running = []

    def _sampling_params(self, request: Request, selector: TokenSelector) -> Any:
        sampling = request.sampling
        return self.model.sampling_params(
            max_tokens=request.max_new_tokens, min_tokens=request.min_new_tokens, stop=list(request.stop) or None,
            stop_token_ids=[*selector.eos_token_ids, *request.stop_ids], temperature=sampling.temperature,
            top_k=sampling.top_k or 0, top_p=sampling.top_p, repetition_penalty=sampling.repetition_penalty,
            seed=sampling.seed, logprobs=0 if request.logprobs else None,
        )  # fmt: skip

    def _finish(self, row: RunningRequest, output: Any, selector: TokenSelector) -> None:
        """End a row by the rules of lotune's own engine, from the token ids that vLLM returned."""
        ids = list(output.token_ids)
        # vLLM keeps the token that ended the answer; its text is not used, as vLLM cuts it by other rules
        ended = bool(ids) and output.finish_reason == "stop"
        ended = ended and ids[-1] in (*selector.eos_token_ids, *row.request.stop_ids)
        ids = ids[:-1] if ended else ids
        row.logprobs += [step[token].logprob for step, token in zip(output.logprobs or (), ids, strict=False)]
        row.ids += ids
        cancelled = row.on_token is not None and any(list(map(row.on_token, ids)))
        selector.finish(row, "cancelled" if cancelled else "eos" if ended else "length")


def _library() -> Any:
    """Import vLLM. Raises: ModelError if it cannot be imported."""
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for results
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        remedy = f"{install_extra('vllm')}, or evaluate.engine=lotune"
        raise ModelError("evaluate.engine", f"vllm cannot be imported: {error}", remedy=remedy) from None


@contextmanager
def as_model_error(model: str) -> Iterator[None]:
    """Turn any error of vLLM in the block into a ModelError that names the model and the remedy."""
    try:
        yield
    except Exception as error:  # its engine has errors of its own, without a common root
        line = " ".join(str(error).split())[:240]
        raise ModelError(model, f"vllm: {line}", remedy="evaluate.engine=lotune") from error
