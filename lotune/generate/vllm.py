"""vLLM behind the engine's face, for the GPUs that it runs on; it is the optional dependency `vllm`.

It reads the model's folder itself, its weights from safetensors only and without any code of the folder.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from lotune.errors import ModelError
from lotune.generate.engine import Engine, check_requests
from lotune.generate.requests import Completion, FinishReason, Request, eos_token_ids, expand_requests
from lotune.generate.sampling import cut_at_stop
from lotune.model.loading import base_folder, dtype_name, resolve_device, resolve_dtype
from lotune.model.settings import BaseSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REQUESTS_PER_CALL = 1024
"""Requests that vLLM is given at once; their answers come together."""


class VllmEngine:
    """A model that vLLM holds and answers with, by continuous batching and paged attention of its own.

    Raises: ModelError where vLLM is not installed or cannot hold the model.
    """

    def __init__(self, settings: BaseSettings, tokenizer: PreTrainedTokenizerBase) -> None:
        from transformers import AutoConfig, GenerationConfig

        library, dtype = _library(), resolve_dtype(settings.dtype, resolve_device("auto"))
        self.name_or_path, self.tokenizer = settings.model, tokenizer
        folder = base_folder(settings)
        source = str(folder) if folder is not None else settings.model
        with _as_model_error(settings.model):
            self.config = AutoConfig.from_pretrained(source, trust_remote_code=False)
            self._llm: Any = library.LLM(
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
        self._params = library.SamplingParams

    def stream(self, requests: Sequence[Request], *, batch_tokens: int) -> Iterator[tuple[int, Completion]]:
        """(number of the answer, answer), a thousand requests at a time; vLLM itself budgets the memory.

        Raises: ModelError for an adapter or a deadline, which requests cannot have here; DataError as `check_requests`.
        """
        if any(request.adapter is not None or request.timeout_seconds is not None for request in requests):
            found = "has adapters and deadlines a request with lotune's own engine only"
            raise ModelError("evaluate.engine", f"vllm {found}", remedy="evaluate.engine=lotune")
        check_requests(self, self, requests)
        requests = list(expand_requests(self.tokenizer, requests))
        for first in range(0, len(requests), REQUESTS_PER_CALL):
            part = requests[first : first + REQUESTS_PER_CALL]
            prompts = [{"prompt_token_ids": list(request.prompt_ids)} for request in part]
            with _as_model_error(self.name_or_path):
                found = self._llm.generate(prompts, [self._asked(request) for request in part], use_tqdm=False)
            for number, (request, output) in enumerate(zip(part, found, strict=True), start=first):
                yield number, self._completion(request, output.outputs[0])

    def _asked(self, request: Request) -> Any:
        how = request.sampling
        return self._params(
            max_tokens=request.max_new_tokens, min_tokens=request.min_new_tokens, stop=list(request.stop) or None,
            stop_token_ids=[*self._ends(), *request.stop_ids], temperature=how.temperature, top_k=how.top_k or 0,
            top_p=how.top_p, repetition_penalty=how.repetition_penalty, seed=how.seed,
            logprobs=0 if request.logprobs else None,
        )  # fmt: skip

    def _ends(self) -> tuple[int, ...]:
        return eos_token_ids(self, self.tokenizer)  # type: ignore[arg-type]

    def _completion(self, request: Request, output: Any) -> Completion:
        """The answer in our terms: vLLM's ids hold the token that ended it, and its text is cut by other rules."""
        ends = {*self._ends(), *request.stop_ids}
        ids = tuple(output.token_ids)
        ended = bool(ids) and ids[-1] in ends and output.finish_reason == "stop"
        ids = ids[:-1] if ended else ids
        whole = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        text, stopped = cut_at_stop(str(whole), request.stop)
        by: FinishReason = "stop" if stopped else "eos" if ended else "length"
        values = (step[token].logprob for step, token in zip(output.logprobs or (), ids, strict=False))
        return Completion(text, ids, by, tuple(values))


def engine_for(model: Any, tokenizer: Any) -> Any:
    """What answers with a model: itself where vLLM holds it, else lotune's engine."""
    return model if isinstance(model, VllmEngine) else Engine(model, tokenizer)


def _library() -> Any:
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")  # stdout is for results
    try:
        return importlib.import_module("vllm")
    except ImportError as error:
        found = f"vllm cannot be imported: {error}"
        raise ModelError(
            "evaluate.engine",
            found,
            remedy="pip install '.[vllm]' in lotune's source folder, or evaluate.engine=lotune",
        ) from None


@contextmanager
def _as_model_error(model: str) -> Iterator[None]:
    """A block in which vLLM's own errors become one that names the model and the way out."""
    try:
        yield
    except Exception as error:  # its engine has errors of its own, without a common root
        line = " ".join(str(error).split())[:240]
        raise ModelError(model, f"vllm: {line}", remedy="evaluate.engine=lotune") from error
