"""Chat templates of tokenisers: the format in which a model was trained on conversations.

A chat template is a Jinja program that comes with the model. transformers renders it in a sandbox, in which it can
neither read files nor change objects. To find out which part of the text is an answer, the conversation is rendered up
to the question and again up to the answer; the second text must begin with the first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from lotune.data.conversation import Conversation
from lotune.errors import DataError, ModelError

CHAT = "chat"
"""Name of the tokeniser's chat template among the prompt templates."""
OTHER_TEMPLATE = "set task.template=alpaca"
_PROBE = Conversation(("question",), ("the answer of a probe",))


@dataclass(frozen=True)
class ChatTemplate:
    """A chat template with its tokeniser; `turn_end` is the special token that ends an answer.

    `instruction_prefix` is prepended to the first question.
    """

    tokenizer: Any
    source: str
    turn_end: str
    instruction_prefix: str = ""

    @property
    def stop(self) -> tuple[str, ...]:
        """Stop strings of an answer."""
        return (self.turn_end,)

    def render_conversation(self, conversation: Conversation, where: str) -> list[tuple[str, str]]:
        """Return prompt and answer of each turn; a prompt begins where the answer before it ends.

        Raises: DataError for a conversation that the template refuses, or that has a special token in its texts;
        ModelError for a template that fails, or that renders a turn differently once others follow.
        """
        self._check_texts(conversation, where)
        if self.instruction_prefix:
            first, *further = conversation.questions
            conversation = replace(conversation, questions=(self.instruction_prefix + first, *further))
        turns, before = [], ""
        for number in range(1, len(conversation.questions) + 1):
            question = replace(
                conversation, questions=conversation.questions[:number], answers=conversation.answers[: number - 1]
            )
            prompt = _after(before, self._render(question, where))
            answered = replace(question, answers=conversation.answers[:number])
            answer = ""
            if len(answered.messages) > len(question.messages):
                answer = self._answer(_after(before + prompt, self._render(answered, where)), answered.answers[-1])
            turns.append((prompt, answer))
            before += prompt + answer + self.turn_end
        return turns

    def _answer(self, rendered: str, content: str) -> str:
        """Return the text of a rendered answer without the token that ends it."""
        answer, end, _ = rendered.partition(self.turn_end)
        if not end or not answer.strip().endswith(content.strip()):
            raise _unusable(f"does not end an answer with {self.turn_end}: {rendered!r:.80}")
        return answer

    def _render(self, conversation: Conversation, where: str) -> str:
        return render_messages(
            self.tokenizer, self.source, conversation.messages, where,
            generate=len(conversation.answers) < len(conversation.questions),
        )  # fmt: skip

    def _check_texts(self, conversation: Conversation, where: str) -> None:
        # The rendered text is encoded with its special tokens, so a row could otherwise write turns of its own.
        special = special_tokens(self.tokenizer)
        for message in conversation.messages:
            if token := next((token for token in special if token in message["content"]), ""):
                found = f"its {message['role']} message has {token} in its text, a special token of the tokeniser"
                raise DataError(where, found, "texts without special tokens", f"take it out, or {OTHER_TEMPLATE}")


def chat_template_of(tokenizer: Any, instruction_prefix: str = "") -> ChatTemplate:
    """Return the chat template of a tokeniser.

    Raises: ModelError if it has none, or one that does not end answers with a special token.
    """
    if tokenizer.chat_template is None:
        raise ModelError("tokeniser", "has no chat template", "chat_template.jinja", OTHER_TEMPLATE)
    try:
        source = tokenizer.get_chat_template()
    except ValueError as error:  # several templates without a default
        raise _unusable(str(error)) from None
    # Of the special tokens after a rendered answer, the first ends it.
    [answer] = _PROBE.answers
    before, _, after = render_messages(tokenizer, source, _PROBE.messages, "probe", generate=False).rpartition(answer)
    positions = {token: after.find(token) for token in special_tokens(tokenizer)}
    ends = [token for token, position in positions.items() if position >= 0]
    if not before or not ends:
        raise _unusable(f"does not end an answer with a special token: {after!r:.80}")
    return ChatTemplate(tokenizer, source, min(ends, key=lambda token: positions[token]), instruction_prefix)


def special_tokens(tokenizer: Any) -> list[str]:
    """Return the texts of a tokeniser's special tokens."""
    return [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]


def render_messages(tokenizer: Any, source: str, messages: list[dict[str, str]], where: str, *, generate: bool) -> str:
    """Return the text of messages; with `generate`, including the header of the answer to generate.

    Raises: DataError that names `where` if the template refuses the messages; ModelError if it fails.
    """
    from jinja2.exceptions import SecurityError, TemplateError, TemplateRuntimeError, TemplateSyntaxError

    try:
        text: str = tokenizer.apply_chat_template(
            messages, chat_template=source, tokenize=False, add_generation_prompt=generate
        )
    except SecurityError as error:
        raise _unusable(f"does what its sandbox forbids: {error}") from None
    except (TemplateSyntaxError, TemplateRuntimeError) as error:
        raise _unusable(f"cannot be rendered: {error}") from None
    except TemplateError as error:  # the template's own raise_exception
        remedy = f"change the row, or {OTHER_TEMPLATE}"
        raise DataError(where, f"is refused by the model's chat template: {error}", remedy=remedy) from None
    except Exception as error:  # a template may fail in any way that Python can
        raise _unusable(f"cannot be rendered: {type(error).__name__}: {error}") from None
    return text


def _after(beginning: str, text: str) -> str:
    """Return a text without its beginning. Raises: ModelError if it does not begin so."""
    if not text.startswith(beginning):
        raise _unusable("renders a turn in another way once others follow, so its answers cannot be told apart")
    return text[len(beginning) :]


def _unusable(found: str) -> ModelError:
    return ModelError("chat template of the tokeniser", found, "turns that stay as they are", OTHER_TEMPLATE)
