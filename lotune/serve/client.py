"""An OpenAI-compatible server as a model: its answers and log-likelihoods, asked for by several threads.

With a server that has vLLM's /tokenize, prompts are the token ids that the server itself makes of a text. With others,
a "token" is a character, and prompts are sent as texts.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from functools import lru_cache
from typing import Any

from lotune.errors import DataError, LotuneError, ModelError, RunError, SettingsError, install_extra
from lotune.generate.loglikelihood import Continuation
from lotune.generate.requests import Completion, FinishReason, Request
from lotune.generate.sampling import Sampling
from lotune.model.loading import DEFAULT_CONTEXT_LENGTH

PARALLEL = 32
"""Number of requests under way at once."""
RETRIES = 8
"""How often a request is sent again to a server that is busy or ends a connection."""
KEY_VARIABLES = ("LOTUNE_API_KEY", "OPENAI_API_KEY")
REASONS: dict[str, FinishReason] = {"stop": "eos", "length": "length"}


class ServerClient:
    """One model of a server at `url`, with or without /v1; `model` is empty for the server's first one.

    Raises: ModelError if the server cannot be reached or does not serve the model.
    """

    def __init__(self, url: str, model: str = "") -> None:
        try:
            import openai
        except ModuleNotFoundError:
            raise SettingsError("--server", "the package openai is missing", remedy=install_extra("serve")) from None
        self._openai, self.url = openai, url.rstrip("/").removesuffix("/v1")
        if not self.url.startswith(("http://", "https://")):
            raise SettingsError("--server", f"{url} is no address", "such as http://127.0.0.1:8000")
        key = next(filter(None, map(os.environ.get, KEY_VARIABLES)), "none")
        self.api: Any = openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=RETRIES)
        names = {one.id: one for one in self._call(lambda: self.api.with_options(max_retries=0).models.list()).data}
        if not names or (model and model not in names):
            found = f"does not serve {model}" if model else "serves no model"
            raise ModelError(self.url, found, ", ".join(names) or "a model")
        self.model = model or next(iter(names))
        length = getattr(names[self.model], "max_model_len", None)
        self.context: int = length if isinstance(length, int) and length > 0 else DEFAULT_CONTEXT_LENGTH
        self.info = self._tokenizer_info()

    def _call(self, work: Callable[[], Any]) -> Any:
        """Return the result of a request. Raises: the errors of lotune in place of those of openai."""
        openai = self._openai
        try:
            return work()
        except openai.BadRequestError as error:
            raise DataError(self.url, f"refuses a request: {_message(error)}") from None
        except openai.AuthenticationError:
            raise ModelError(self.url, "needs an API key", f"in {' or '.join(KEY_VARIABLES)}") from None
        except openai.APIConnectionError:
            raise ModelError(self.url, "cannot be reached", "a running server", "check address and port") from None
        except openai.OpenAIError as error:
            raise RunError(self.url, f"did not answer: {_message(error)}", remedy="try again") from None

    def _tokenizer_info(self) -> dict[str, Any]:
        """Return what the server tells of its tokeniser, empty if it tells nothing."""
        try:
            info = self._get("/tokenizer_info", {"model": self.model})
        except LotuneError:
            return {}
        return info if isinstance(info, dict) else {}

    def _get(self, path: str, query: dict[str, Any]) -> Any:
        return self._call(lambda: self.api.get(f"{self.url}{path}", cast_to=object, options={"params": query}))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON of the answer to a request to a path outside of OpenAI's API."""
        body = {"model": self.model, **body}
        return self._call(lambda: self.api.post(f"{self.url}{path}", cast_to=object, body=body))

    @property
    def tokenizes(self) -> bool:
        """Whether the server turns texts into token ids."""
        return bool(self.info)

    def complete(self, prompt: str | list[int], request: Request) -> Completion:
        """Return the completion of a prompt."""
        fields = {**_sampled(request), "max_tokens": request.max_new_tokens}
        reply = self._call(lambda: self.api.completions.create(model=self.model, prompt=prompt, **fields))
        choice = reply.choices[0]
        return Completion(choice.text, (), REASONS.get(choice.finish_reason, "eos"))

    def chat(self, messages: Sequence[dict[str, str]], request: Request) -> Completion:
        """Return the answer to a conversation, in the server's template."""
        fields = {**_sampled(request), "max_tokens": request.max_new_tokens}
        reply = self._call(
            lambda: self.api.chat.completions.create(model=self.model, messages=list(messages), **fields)
        )
        choice = reply.choices[0]
        return Completion(choice.message.content or "", (), REASONS.get(choice.finish_reason, "eos"))

    def stream_chat(self, messages: Sequence[dict[str, str]], sampling: Sampling, max_new_tokens: int) -> Iterator[str]:
        """Yield the answer to a conversation piece by piece; closing the iterator ends the answer."""
        fields = {**_sampled(Request((0,), max_new_tokens, sampling=sampling)), "max_tokens": max_new_tokens}
        stream = self._call(
            lambda: self.api.chat.completions.create(model=self.model, messages=list(messages), stream=True, **fields)
        )
        try:
            chunks = iter(stream)
            while (chunk := self._call(lambda: next(chunks, None))) is not None:
                if chunk.choices and chunk.choices[0].delta.content:
                    yield chunk.choices[0].delta.content
        finally:
            stream.close()

    def score(self, prompt: str | list[int], continuation: str | list[int]) -> tuple[float, ...]:
        """Return the log-probability of each token of a continuation, in nats.

        Raises: ModelError if the server does not return those of the prompt (`echo`).
        """
        whole: Any = prompt + continuation  # type: ignore[operator]  # both are of one type
        reply = self._call(
            lambda: self.api.completions.create(
                model=self.model, prompt=whole, max_tokens=1, temperature=0, logprobs=1, echo=True
            )
        )
        found = reply.choices[0].logprobs
        values = list(found.token_logprobs or []) if found else []
        if isinstance(prompt, str):
            offsets = list(found.text_offset or []) if found else []
            last = len(whole)
            scored = [value for value, at in zip(values, offsets, strict=False) if len(prompt) <= at < last]
        else:
            scored = values[len(prompt) : len(whole)]
        if not scored or None in scored:
            found_text = "returns no log-probabilities of a prompt's tokens"
            raise ModelError(self.url, found_text, "a server with `echo` and `logprobs`, such as lotune's or vLLM's")
        return tuple(float(value) for value in scored)


def _sampled(request: Request) -> dict[str, Any]:
    sampling = request.sampling
    fields: dict[str, Any] = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    if sampling.temperature:
        fields["seed"] = sampling.seed % 2**63
    if request.stop:
        fields["stop"] = list(request.stop)
    more = {"top_k": sampling.top_k, "repetition_penalty": sampling.repetition_penalty}
    changed = {name: value for name, value in more.items() if value not in (None, 1.0)}
    return {**fields, **({"extra_body": changed} if changed else {})}


def _message(error: Any) -> str:
    body = getattr(error, "body", None)
    text = body.get("message") if isinstance(body, dict) else None
    return " ".join(str(text or error).split())[:300]


class RemoteTokenizer:
    """The tokeniser of a server, as far as prompts need one, or one whose tokens are characters."""

    eos_token_id, bos_token_id = -1, None

    def __init__(self, client: ServerClient, by_character: bool) -> None:
        self._client, self._by_character = client, by_character
        self._encoded = lru_cache(maxsize=4096)(self._encode)

    def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> dict[str, list[int]]:
        return {"input_ids": list(self._encoded(text, add_special_tokens))}

    def _encode(self, text: str, special: bool) -> tuple[int, ...]:
        if self._by_character:
            return tuple(map(ord, text))
        return tuple(self._client.post("/tokenize", {"prompt": text, "add_special_tokens": special})["tokens"])


class RemoteAnswers:
    """A server in the place of an `AnsweringModel`: it has no weights here.

    With `chat`, prompts are sent as messages, which the server renders in its template.
    """

    def __init__(self, client: ServerClient, *, chat: bool) -> None:
        self.client, self.chat = client, chat
        self.by_character = chat or not client.tokenizes
        self.tokenizer: Any = RemoteTokenizer(client, self.by_character)
        # Characters say nothing about the context; the server refuses what is too long.
        self.context = sys.maxsize if self.by_character else client.context
        self.engine = self.loglikelihood = self

    def reset(self) -> None:
        """Do nothing: the server keeps what it keeps."""

    def stream(
        self, requests: Sequence[Request], *, batch_tokens: int | None = None
    ) -> Iterator[tuple[int, Completion]]:
        """Yield (number, completion) as answers end."""

        def answer(request: Request) -> Completion:
            prompt = self._prompt(request.prompt_ids)
            if not self.chat:
                return self.client.complete(prompt, request)
            assert isinstance(prompt, str)
            return self.client.chat([{"role": "user", "content": prompt}], request)

        yield from self._parallel(answer, requests)

    def score(self, rows: Sequence[Continuation], *, batch_tokens: int) -> list[tuple[float, ...]]:
        """Return the log-probability of each token of each continuation, in the order of the rows.

        Raises: ModelError if prompts are sent as messages.
        """
        if self.chat:
            raise ModelError(
                self.client.url, "scores no options in its chat template", "a prompt template", "task.template=alpaca"
            )
        found = self._parallel(lambda row: self.client.score(self._prompt(row.prompt_ids), self._prompt(row.ids)), rows)
        return [scores for _, scores in sorted(found)]

    def _prompt(self, ids: Sequence[int]) -> Any:
        return "".join(map(chr, ids)) if self.by_character else list(ids)

    @staticmethod
    def _parallel(work: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        with ThreadPoolExecutor(PARALLEL) as pool:
            futures = {pool.submit(work, item): number for number, item in enumerate(items)}
            try:
                for future in as_completed(futures):
                    yield futures[future], future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
