"""`lotune chat`: a conversation with a model in the terminal, rendered in its own template."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lotune.data.chat_template import ChatTemplate
from lotune.data.conversation import Conversation, conversation_example
from lotune.data.file_readers import is_text
from lotune.data.rows import write_rows
from lotune.data.templates import Template
from lotune.data.tokenized import encode_prompt
from lotune.errors import DataError, LotuneError, RunError
from lotune.evaluate.predict import check_max_new_tokens
from lotune.generate.engine import Engine
from lotune.generate.requests import ErrorEvent, Request
from lotune.generate.sampling import Sampling
from lotune.model.loading import LoadedModel, context_length
from lotune.recipe import Recipe
from lotune.stages.model_loading import load_model_or_adapter, resolve_weights, with_resolved_dtype
from lotune.stages.output_files import require_single_process
from lotune.stages.prompt_template import conversation_format, resolve_auto, with_stored_template
from lotune.text_display import print_visible

if TYPE_CHECKING:
    from lotune.serve.client import ServerClient

HELP = (
    "/reset starts a new conversation, /system TEXT starts one with a system message, /save FILE saves it, "
    "/help lists the commands, /exit or Ctrl-D ends the chat"
)


class Answerer(Protocol):
    """What answers the last question of a conversation."""

    def answer(self, conversation: Conversation, show: Callable[[str], None]) -> str:
        """Return the answer, and show it as it is generated; Ctrl-C ends it early."""


@dataclass
class ChatSession:
    """A model that answers, and the conversation with it."""

    answerer: Answerer
    conversation: Conversation = field(default_factory=Conversation)
    saved: set[Path] = field(default_factory=set)
    """Files that the conversation was saved to; only these may be overwritten."""

    def reset(self, system: str) -> None:
        """Begin a new conversation with a system message."""
        self.conversation = Conversation(system=system)

    def save(self, file: Path) -> None:
        """Write the conversation as a row of a file. Raises: RunError if the file exists and was not saved here."""
        path = file.resolve()
        if path.exists() and path not in self.saved:
            raise RunError(str(file), "already exists", "a new file", "choose another name")
        write_rows(file, [{"messages": self.conversation.messages}])
        self.saved.add(path)

    def ask(self, question: str, show: Callable[[str], None]) -> None:
        """Add a question and its answer to the conversation, or neither if the model raises."""
        conversation = self.conversation.ask(question)
        self.conversation = conversation.answer(self.answerer.answer(conversation, show))


@dataclass
class LocalAnswerer:
    """A loaded model with the template of its conversations."""

    base: LoadedModel
    form: Template | ChatTemplate
    sampling: Sampling
    max_new_tokens: int
    engine: Engine = field(init=False)

    def __post_init__(self) -> None:
        tokenizer: Any = self.base.tokenizer
        self.engine = Engine(self.base.model, tokenizer, batch_tokens=context_length(self.base.model))

    def answer(self, conversation: Conversation, show: Callable[[str], None]) -> str:
        """Return the answer to the last question, and show it as it is generated; Ctrl-C ends it early.

        The oldest turns are dropped if the conversation does not fit into the context.

        Raises: DataError if the last question alone does not fit, or if the chat template refuses the conversation;
        ModelError if the chat template fails.
        """
        ids, dropped = self._encode_fitting_turns(conversation)
        if dropped:
            show(f"[the first {dropped} turns no longer fit in the context and are left out]\n")
        request = Request(ids, self.max_new_tokens, 1, self.form.stop, "your message", sampling=self.sampling)
        return show_pieces(self._pieces(request), show)

    def _pieces(self, request: Request) -> Iterator[str]:
        for event in self.engine.events(self.engine.submit(request)):
            if isinstance(event, ErrorEvent):
                raise event.error
            if event.text:
                yield event.text

    def _encode_fitting_turns(self, conversation: Conversation) -> tuple[tuple[int, ...], int]:
        max_prompt_tokens = context_length(self.base.model) - self.max_new_tokens
        # Each attempt renders the whole conversation: a chat template need not render a turn by itself.
        for dropped in range(len(conversation.questions)):
            example = conversation_example("your message", conversation.drop_first(dropped), self.form)
            ids = encode_prompt(self.base.tokenizer, example, sys.maxsize)[0]
            if len(ids) <= max_prompt_tokens:
                return tuple(ids), dropped
        found = f"has {len(ids)} tokens with its prompt, and {self.max_new_tokens} are reserved for the answer"
        expected, remedy = f"{context_length(self.base.model)} in all", "shorten it, or lower --max-new-tokens"
        raise DataError("your message", found, expected, remedy)


@dataclass
class ServerAnswerer:
    """A model of a server, which renders conversations itself."""

    client: ServerClient
    sampling: Sampling
    max_new_tokens: int

    def answer(self, conversation: Conversation, show: Callable[[str], None]) -> str:
        """Return the answer to the last question. Raises: DataError if the server refuses the conversation."""
        return show_pieces(self.client.stream_chat(conversation.messages, self.sampling, self.max_new_tokens), show)


def show_pieces(pieces: Iterator[str], show: Callable[[str], None]) -> str:
    """Return an answer that comes in pieces, and show each; Ctrl-C ends it early."""
    seen: list[str] = []
    try:
        for piece in pieces:
            seen.append(piece)
            show(piece)
    except KeyboardInterrupt:
        show(" [stopped]")
    return "".join(seen)


def chat_with_server(url: str, model: str, sampling: Sampling, max_new_tokens: int) -> None:
    """Chat with a model of a server until the input ends or the user types /exit.

    Raises: SettingsError in several processes; ModelError if the server cannot be reached or lacks the model.
    """
    from lotune.serve.client import ServerClient

    require_single_process("chat")
    client = ServerClient(url, model)
    print_visible(f"{client.model} on {client.url}. {HELP}.", file=sys.stderr)
    converse(ChatSession(ServerAnswerer(client, sampling, max_new_tokens)), _input_lines())


def chat(recipe: Recipe, model: str, sampling: Sampling, max_new_tokens: int, force: bool) -> None:
    """Chat until the input ends or the user types /exit.

    Raises: ModelError if the settings name a template other than the model's, unless forced; SettingsError in several
    processes.
    """
    require_single_process("chat")
    weights, _ = resolve_weights(recipe, model)
    settings = resolve_auto(with_stored_template(recipe.task, model, force), weights)
    form = conversation_format(settings, weights)
    base = load_model_or_adapter(with_resolved_dtype(recipe, model), model)
    check_max_new_tokens(max_new_tokens, context_length(base.model), "--max-new-tokens")
    print_visible(f"{model}, template {settings.prompt_template.name}. {HELP}.", file=sys.stderr)
    converse(ChatSession(LocalAnswerer(base, form, sampling, max_new_tokens)), _input_lines())


def converse(session: ChatSession, lines: Iterable[str]) -> None:
    """Answer each line; a line that begins with a slash is a command."""
    for line in filter(None, map(str.strip, lines)):
        if not is_text(line):
            print_visible("your message: is not UTF-8 text; it was ignored", file=sys.stderr)
            continue
        if line.startswith("/"):
            if _command(session, line):
                return
            continue
        try:
            session.ask(line, _show)
        except DataError as error:
            print_visible(error, file=sys.stderr)
        _show("\n")


def _command(session: ChatSession, line: str) -> bool:
    """Run a command, and return whether it ends the conversation."""
    name, _, text = line.partition(" ")
    name = name.lower()
    if name in ("/quit", "/exit"):
        return True
    if name == "/reset":
        session.reset(session.conversation.system)
        print_visible("new conversation", file=sys.stderr)
    elif name == "/system":
        session.reset(text.strip())
        print_visible("new conversation with this system message", file=sys.stderr)
    elif name == "/save" and text.strip():
        try:
            file = Path(text.strip()).expanduser()
            session.save(file)
            print_visible(f"saved to {file}", file=sys.stderr)
        except (OSError, ValueError, RuntimeError, LotuneError) as error:  # RuntimeError: ~ of nobody
            print_visible(f"{text.strip()} cannot be written: {error}", file=sys.stderr)
    elif name == "/help":
        print_visible(HELP, file=sys.stderr)
    else:
        problem = "needs a file name" if name == "/save" else "unknown command"
        print_visible(f"{name}: {problem}; {HELP}", file=sys.stderr)
    return False


def _input_lines() -> Iterable[str]:
    """Yield the lines of the input; bytes that are not UTF-8 become surrogates."""
    # A strict decoder would end the whole conversation at the first bad byte; `converse` rejects the line alone.
    if isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    while True:
        try:
            yield input("> " if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():  # Ctrl-D leaves the cursor behind the prompt
                print_visible("", file=sys.stderr)
            return


def _show(piece: str) -> None:
    print_visible(piece, end="")
