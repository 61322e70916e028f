"""The models of a server: each has a name for requests, and several may share the weights of a base."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from lotune.data.chat_template import ChatTemplate
from lotune.data.conversation import Conversation, conversation_example
from lotune.data.templates import Template
from lotune.data.token_bytes import token_bytes
from lotune.data.tokenized import encode_prompt
from lotune.generate.answering_model import AnsweringModel
from lotune.model.digest import weights_digest
from lotune.model.loading import context_length
from lotune.serve.errors import ApiError, invalid
from lotune.serve.remote import RemoteModel

NO_LIMIT = 2**31
NAME_CHARACTERS = 200


@dataclass(frozen=True, eq=False)
class ServedModel:
    """A model under the `name` that requests choose it by.

    `form` renders conversations. `adapter` is the engine's name of the adapter, or None for a model without adapters.
    `parent` is the name of the base, None for a base. `int8_agreement` is the share of float32's tokens that the model
    chooses in int8, None for one in another number format. `weights` are the files of its
    own weights, none for a model that was not read from files.
    """

    name: str
    answering: AnsweringModel
    form: Template | ChatTemplate
    adapter: str | None = None
    parent: str | None = None
    int8_agreement: float | None = None
    weights: tuple[Path, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def tokenizer(self) -> Any:
        """The tokeniser of the model."""
        return self.answering.tokenizer

    @property
    def digest(self) -> str:
        """The digest of the model's own weights, which names them; empty if they were not read from files."""
        return weights_digest(self.weights) if self.weights else ""

    @cached_property
    def context(self) -> int:
        """The maximum number of tokens of prompt and answer together."""
        return context_length(self.answering.model)

    @property
    def vocab_size(self) -> int:
        """The number of tokens that the model takes."""
        return int(self.answering.model.config.get_text_config().vocab_size)

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes of each token by its id."""
        return token_bytes(self.tokenizer)

    def token_text(self, id: int) -> str:
        """Return the text of one token; bytes that are no whole character become U+FFFD."""
        return self.bytes_of(id).decode("utf-8", "replace")

    def bytes_of(self, id: int) -> bytes:
        """Return the bytes of one token; a token that the tokeniser does not know has none."""
        return self.token_bytes[id] if id < len(self.token_bytes) else b""

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Return the token ids of a text; with `special`, after the begin-of-text of tokenisers that have one.

        The name of a special token in the text becomes that token, as prompts of other programs expect.
        """
        return list(self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"])

    @cached_property
    def max_prompt_bytes(self) -> int:
        """A size in bytes above which no text fits into the context, whatever its tokens."""
        return self.context * max(map(len, self.token_bytes))

    def check_size(self, text: str) -> None:
        """Raise ApiError for a text that is too long, without the time that encoding it would take."""
        if len(text) > self.max_prompt_bytes:
            message = f"the prompt has {len(text)} characters, which are more than {self.context} tokens"
            raise ApiError(400, message, param="prompt", code="context_length_exceeded")

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """Return the text of token ids, with or without the names of special tokens."""
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return text

    def render(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Return the token ids of a conversation in OpenAI's form, up to where the answer begins.

        Raises: ApiError for roles in an order that the template does not render; DataError as the template does.
        """
        for message in messages:
            self.check_size(message["content"])
        example = conversation_example("messages", conversation_of(messages), self.form)
        return encode_prompt(self.tokenizer, example, NO_LIMIT)[0]


def conversation_of(messages: Sequence[dict[str, str]]) -> Conversation:
    """Return a conversation of messages: system messages first, then questions and answers in turn, a question last.

    >>> conversation_of([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]).questions
    ('Why?',)

    Raises: ApiError for another order.
    """
    system, turns = [], list(messages)
    while turns and turns[0]["role"] in ("system", "developer"):
        system.append(turns.pop(0)["content"])
    for number, turn in enumerate(turns):
        expected = "assistant" if number % 2 else "user"
        if turn["role"] != expected:
            place = len(system) + number
            raise invalid(f"messages[{place}] is of the role {turn['role']!r}, expected {expected!r}", "messages")
    if len(turns) % 2 == 0:
        raise invalid("the last message must be one of the user", "messages")
    return Conversation(
        tuple(turn["content"] for turn in turns[::2]),
        tuple(turn["content"] for turn in turns[1::2]),
        "\n\n".join(system),
    )


class Models:
    """The served models by name, and those of other servers; the first one answers requests that name none."""

    def __init__(self, models: Sequence[ServedModel], remotes: Sequence[RemoteModel] = ()) -> None:
        self.by_name = {model.name: model for model in models}
        self.remotes = {remote.name: remote for remote in remotes}
        self.default = models[0] if models else None

    @property
    def names(self) -> list[str]:
        """The names of all models."""
        return [*self.by_name, *self.remotes]

    def named(self, name: str | None) -> ServedModel:
        """Return a model. Raises: ApiError with the names that there are."""
        if not name and self.default is not None:
            return self.default
        name = name or ""
        if name not in self.by_name:
            choices = ", ".join(self.by_name)
            message = f"the model {name[:NAME_CHARACTERS]!r} is not served here; these are: {choices}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return self.by_name[name]

    def add_remote(self, remote: RemoteModel) -> None:
        """Add a model of another server."""
        self.remotes[remote.name] = remote

    @property
    def answering(self) -> list[AnsweringModel]:
        """Each set of weights once."""
        return list(dict.fromkeys(model.answering for model in self.by_name.values()))

    def __iter__(self) -> Any:
        return iter(self.by_name.values())
