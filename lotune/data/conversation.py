"""Conversations: a system message, questions of a user and answers of an assistant."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from lotune.data.examples import Example, Turn


@dataclass(frozen=True)
class Conversation:
    """Questions and the answer to each; the answer to the last question may be missing, or empty.

    `system` is the system message, empty if there is none. `input` is further context of the first question.
    """

    questions: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    system: str = ""
    input: str = ""

    @property
    def messages(self) -> list[dict[str, str]]:
        """The turns as messages with `role` (system, user, assistant) and `content`, in OpenAI's form.

        >>> Conversation(("Why?", "How?"), ("So.",)).messages[-1]
        {'role': 'user', 'content': 'How?'}
        """
        return [{"role": role, "content": content} for role, content in self._turns()]

    def _turns(self) -> Iterator[tuple[str, str]]:
        if self.system:
            yield "system", self.system
        for index, question in enumerate(self.questions):
            yield "user", f"{question}\n\n{self.input}" if self.input and not index else question
            is_last = index == len(self.questions) - 1
            if index < len(self.answers) and (self.answers[index].strip() or not is_last):
                yield "assistant", self.answers[index]

    def ask(self, question: str) -> Conversation:
        """Return the conversation with one more question."""
        return replace(self, questions=(*self.questions, question))

    def answer(self, answer: str) -> Conversation:
        """Return the conversation with one more answer."""
        return replace(self, answers=(*self.answers, answer))

    def drop_first(self, turns: int) -> Conversation:
        """Return the conversation without its first questions and their answers; the system message stays."""
        return replace(self, questions=self.questions[turns:], answers=self.answers[turns:])


class ConversationFormat(Protocol):
    """Protocol of what renders conversations: a prompt template, or the chat template of a tokeniser."""

    @property
    def turn_end(self) -> str:
        """The special token that ends an answer; empty for the tokeniser's end-of-text."""

    def render_conversation(self, conversation: Conversation, where: str) -> Sequence[tuple[str, str]]:
        """Return the text before each answer, from the end of the answer before it, and the text of the answer.

        Raises: DataError, with `where`, for a conversation that cannot be rendered.
        """


def conversation_example(
    id: str, conversation: Conversation, template: ConversationFormat, *, train_on_earlier: bool = True
) -> Example:
    """Return the example of the last question of a conversation, with its earlier turns in the prompt.

    With `train_on_earlier`, the earlier answers are in the loss, too.
    Raises: DataError for a conversation that cannot be rendered.
    """
    *earlier, (question, target) = template.render_conversation(conversation, id)
    turns = tuple(Turn(prompt, answer, train_on_earlier) for prompt, answer in earlier)
    prompt = "".join(turn.prompt + turn.answer for turn in turns) + question
    references = conversation.answers[len(conversation.questions) - 1 :] if target.strip() else ()
    return Example(
        id, prompt, target if references else "", references, earlier_turns=turns, turn_end=template.turn_end
    )
