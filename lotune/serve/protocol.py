"""Requests and responses in the form of OpenAI's API, with the fields that vLLM adds.

Fields that change nothing here, such as `user`, are accepted and ignored; those that would change the answer and are
not supported are refused (`UNSUPPORTED`), so that no setting is dropped silently.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

UNSUPPORTED = {
    "frequency_penalty": (0, None), "presence_penalty": (0, None), "logit_bias": ({}, None), "min_p": (0, None),
    "tools": ([], None), "functions": ([], None), "tool_choice": ("none", "auto", None), "best_of": (1, None),
    "suffix": ("", None), "audio": (None,), "modalities": (["text"], None), "prediction": (None,),
    "use_beam_search": (False, None), "length_penalty": (1, None),
    "guided_json": (None,), "guided_regex": (None,), "guided_grammar": (None,),
    "structured_outputs": (None,), "store": (False, None), "previous_response_id": (None,), "background": (False, None),
}  # fmt: skip
"""Fields that are refused, each with the values that change nothing."""
MAX_STOPS = 16
StopText = Annotated[str, Field(max_length=1000)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Text = Annotated[str, Field(max_length=4_000_000)]


class _Request(BaseModel):
    """A request whose unsupported fields are refused."""

    model_config = ConfigDict(extra="allow", use_attribute_docstrings=True)

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> _Request:
        for name, value in (self.model_extra or {}).items():
            if name in UNSUPPORTED and value not in UNSUPPORTED[name]:
                raise ValueError(f"{name} is not supported")
        return self


class StreamOptions(BaseModel):
    """`include_usage` adds a last chunk with the counts of tokens."""

    include_usage: bool = False


class ResponseFormat(BaseModel):
    """Free text, any JSON object, or JSON that follows a schema."""

    type: Literal["text", "json_object", "json_schema"] = "text"
    json_schema: dict[str, Any] | None = None
    """`{"name": …, "schema": …}`."""


class SamplingFields(_Request):
    """The settings of an answer that all ways of asking share."""

    model: str | None = None
    """Name of a served model; the first one if it is missing."""
    temperature: Annotated[float, Field(ge=0, le=100)] | None = 1.0
    """0 takes the best token."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    """Sample from the fewest tokens whose probabilities reach this."""
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    """Sample from so many of the likeliest tokens; 0 or -1 takes all."""
    repetition_penalty: Annotated[float, Field(ge=1e-3, le=1e3)] | None = 1.0
    """Divide the logits of tokens that are there already by this."""
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed gives the same answer."""
    stop: StopText | Annotated[list[StopText], Field(max_length=MAX_STOPS)] | None = None
    """Texts that end the answer, which is cut before them."""
    min_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = 0
    """No end before so many tokens."""
    ignore_eos: bool | None = False
    """Go on to the longest answer; for benchmarks."""
    n: Annotated[int, Field(ge=1, le=128)] | None = 1
    """Number of answers."""
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """The stop texts that are not empty."""
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return tuple(filter(None, stop))

    @property
    def includes_usage(self) -> bool:
        """Whether a stream ends with the counts of tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


class CompletionRequest(SamplingFields):
    """The body of POST /v1/completions."""

    prompt: (
        Text
        | Annotated[list[Text], Field(min_length=1)]
        | Annotated[list[TokenId], Field(min_length=1)]
        | Annotated[list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1)]
    ) = ""
    """One text, several texts, the token ids of one prompt, or those of several."""
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = 16
    """Maximum length of the answer; 0 with `echo` only scores the prompt."""
    echo: bool | None = False
    """Put the prompt before the answer, with its log-probabilities if `logprobs` is set."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Report each token's log-probability, and those of so many of the likeliest tokens in its place."""
    add_special_tokens: bool = True
    """Begin a text with the tokeniser's begin-of-text."""

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts, all as texts or all as token ids."""
        prompt: Any = self.prompt
        if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)):
            return [prompt]
        return list(prompt)


class TextPart(BaseModel):
    """A part of a message's content."""

    type: Literal["text", "input_text", "output_text"]
    text: Text


class Message(BaseModel):
    """One message of a conversation."""

    model_config = ConfigDict(extra="ignore")

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[TextPart] | None = None

    def plain(self) -> dict[str, str]:
        """Return role and text."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content or [])
        return {"role": self.role, "content": content}


class ChatRequest(SamplingFields):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    max_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """Maximum length of the answer; what the context leaves if it is missing."""
    logprobs: bool | None = False
    """Report the log-probability of each token."""
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """Report so many of the likeliest tokens in each place."""


class ResponsesRequest(_Request):
    """The body of POST /v1/responses, for plain text."""

    model: str | None = None
    input: Text | Annotated[list[Message], Field(min_length=1, max_length=10_000)]
    instructions: Text | None = None
    """The system message."""
    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = 1.0
    stream: bool | None = False

    def as_chat(self) -> ChatRequest:
        """Return the same request to the chat endpoint."""
        own = [Message(role="user", content=self.input)] if isinstance(self.input, str) else self.input
        system = [Message(role="system", content=self.instructions)] if self.instructions else []
        return ChatRequest(
            model=self.model, messages=[*system, *own], max_tokens=self.max_output_tokens,
            temperature=self.temperature, top_p=self.top_p, stream=self.stream,
        )  # fmt: skip


class GenerateRequest(BaseModel):
    """The body of POST /generate: a question, answered as a stream of plain text."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    prompt: Text
    model: str | None = None
    max_new_tokens: Annotated[int, Field(ge=1, lt=2**31)] = 225
    temperature: Annotated[float, Field(ge=0, le=100)] = 0.1
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = 20


class TokenizeRequest(BaseModel):
    """The body of POST /tokenize: a text or a conversation."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=10_000)] | None = None
    add_special_tokens: bool = True
    return_token_strs: bool = False


class DetokenizeRequest(BaseModel):
    """The body of POST /detokenize."""

    model_config = ConfigDict(extra="ignore")

    model: str | None = None
    tokens: Annotated[list[TokenId], Field(max_length=4_000_000)]


class ErrorDetail(BaseModel):
    """What is wrong with a request."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every error."""

    error: ErrorDetail
