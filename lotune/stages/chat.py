"""`lotune chat`: a conversation with a model in the terminal, in the template that it was tuned in."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from lotune.data.batches import encode_prompt
from lotune.data.examples import Example, Turn
from lotune.data.formats import is_text
from lotune.data.templates import Template
from lotune.errors import DataError, LotuneError, RunError
from lotune.evaluate.predict import check_room
from lotune.generate.engine import Engine
from lotune.generate.pieces import Pieces
from lotune.generate.requests import Request
from lotune.generate.sampling import Sampling
from lotune.model.base import Base, context_length
from lotune.recipe import Recipe
from lotune.stages.asking import load_model, settled
from lotune.stages.outputs import check_alone
from lotune.stages.wording import in_its_template
from lotune.tasks.own_rows import write_rows
from lotune.text_display import print_visible

HELP = (
    "/reset begins anew, /system TEXT sets the system message, /save FILE writes the conversation, /help lists these, "
    "/exit or Ctrl-D ends it"
)


@dataclass
class Conversation:
    """What has been said: questions, and the answers to all but perhaps the last of them."""

    template: Template
    system: str = ""
    questions: list[str] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    saved: set[Path] = field(default_factory=set)
    """Files that it was saved to, and may be saved to again."""

    def example(self) -> Example:
        """The last question with all before it."""
        prompts = self.template.conversation(self.questions, self.system)
        turns = tuple(Turn(*pair) for pair in zip(prompts[:-1], self.answers, strict=True))
        return Example("chat", "".join(turn.prompt + turn.answer for turn in turns) + prompts[-1], "", turns=turns)

    def reset(self) -> None:
        """Forget what was said; the system message stays."""
        self.questions, self.answers = [], []

    def save(self, file: Path) -> None:
        """Write the conversation as a row of a file. Raises: RunError for a file that it was not saved to before."""
        place = file.resolve()
        if place.exists() and place not in self.saved:
            raise RunError(str(file), "is there already", "a new file", "name another one")
        write_rows(file, [self.record()])
        self.saved.add(place)

    def record(self) -> dict[str, Any]:
        """The conversation in OpenAI's form, which the task instructions reads."""
        messages = [{"role": "system", "content": self.system}] if self.system else []
        for question, answer in zip(self.questions, self.answers, strict=False):
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return {"messages": messages}


@dataclass
class Talk:
    """A model to talk to, and how it answers."""

    base: Base
    sampling: Sampling
    max_new_tokens: int
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        model: Any = self.base.model
        tokenizer: Any = self.base.tokenizer
        self.engine = Engine(model, tokenizer)

    def answer(self, said: Conversation, show: Callable[[str], None]) -> str:
        """The answer to the last question, shown piece by piece; Ctrl-C ends it where it is.

        The oldest turns are left out where all of them do not fit the context.
        Raises: DataError where the last question alone does not fit.
        """
        tokenizer: Any = self.base.tokenizer
        ids, dropped = self._fitting(said)
        if dropped:
            show(f"[the first {dropped} turns no longer fit and are left out]\n")
        pieces, shown = Pieces(tokenizer, said.template.stop), []

        def on_token(_: int, token: int) -> None:
            if piece := pieces.push(token):
                shown.append(piece)
                show(piece)

        request = Request(ids, self.max_new_tokens, 1, said.template.stop, "your message", sampling=self.sampling)
        room = context_length(self.base.model)
        try:
            [(_, found)] = self.engine.stream([request], batch_tokens=room, on_token=on_token)
        except KeyboardInterrupt:
            show(" [stopped]")
            return "".join(shown)
        show(pieces.finish(found.text))
        return found.text

    def _fitting(self, said: Conversation) -> tuple[tuple[int, ...], int]:
        room = context_length(self.base.model) - self.max_new_tokens
        for dropped in range(len(said.questions)):
            left = Conversation(said.template, said.system, said.questions[dropped:], said.answers[dropped:])
            ids = encode_prompt(self.base.tokenizer, left.example(), sys.maxsize)[0]
            if len(ids) <= room:
                return tuple(ids), dropped
        found = f"has {len(ids)} tokens with its prompt, and {self.max_new_tokens} are for the answer"
        raise DataError("your message", found, f"{context_length(self.base.model)} together", "--max-new-tokens")


def chat(recipe: Recipe, model: str, sampling: Sampling, max_new_tokens: int, force: bool) -> None:
    """Talk until the input ends or says /exit.

    Raises: ModelError where the settings name another template than the model's, unless it is forced; SettingsError in
    several processes.
    """
    check_alone("chat")
    settings = in_its_template(recipe.task, model, force)
    template = settings.prompt_template
    base = load_model(settled(recipe, model), model)
    check_room(max_new_tokens, context_length(base.model), "--max-new-tokens")
    print_visible(f"{model}, template {template.name}. {HELP}.", file=sys.stderr)
    converse(Talk(base, sampling, max_new_tokens), Conversation(template), _lines())


def converse(talk: Talk, said: Conversation, lines: Iterable[str]) -> None:
    """Answer each line; what begins with a slash is a command."""
    for line in filter(None, map(str.strip, lines)):
        if not is_text(line):
            print_visible("your message: is not UTF-8 text, and is left out", file=sys.stderr)
            continue
        if line.startswith("/"):
            if _command(said, line):
                return
            continue
        said.questions.append(line)
        try:
            said.answers.append(talk.answer(said, _show))
        except DataError as error:
            said.questions.pop()
            print_visible(error, file=sys.stderr)
        _show("\n")


def _command(said: Conversation, line: str) -> bool:
    """Carry out a command; whether it ends the conversation."""
    name, _, text = line.partition(" ")
    name = name.lower()
    if name in ("/quit", "/exit"):
        return True
    if name == "/reset":
        said.reset()
        print_visible("begun anew", file=sys.stderr)
    elif name == "/system":
        said.reset()
        said.system = text.strip()
        print_visible("begun anew with this system message", file=sys.stderr)
    elif name == "/save" and text.strip():
        try:
            file = Path(text.strip()).expanduser()
            said.save(file)
            print_visible(f"saved to {file}", file=sys.stderr)
        except (OSError, ValueError, RuntimeError, LotuneError) as error:  # RuntimeError: ~ of nobody
            print_visible(f"{text.strip()} cannot be written: {error}", file=sys.stderr)
    elif name == "/help":
        print_visible(HELP, file=sys.stderr)
    else:
        found = "no file is named" if name == "/save" else "there is no such command"
        print_visible(f"{name}: {found}; {HELP}", file=sys.stderr)
    return False


def _lines() -> Iterable[str]:
    """The lines of the input; what is not UTF-8 in one comes as surrogates."""
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():
                print_visible("", file=sys.stderr)
            return


def _show(piece: str) -> None:
    print_visible(piece, end="")
