"""Prompt templates: the text around an instruction, the same in training, evaluation and serving.

A template travels with every checkpoint (`lotune_template.json`), so that nobody asks a model in another form than it
was trained in. Beside it stands the task's own wording, such as the prompt of a custom task, where it has any.

A conversation is one text. The system message, where there is one, and an empty line stand first; then the first
question in the template's whole form, and its answer; then each later question in the form `follow_up`, which has the
template's tags without its opening sentence, and its answer. Every answer ends with the tokeniser's end-of-text token.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal

from lotune.data.conversation import Conversation
from lotune.errors import ModelError, RunError, SettingsError
from lotune.files import read_json

TEMPLATE_FILE = "lotune_template.json"


@dataclass(frozen=True)
class Template:
    """A prompt's form; `{instruction}` and `{input}` stand for the texts, which are put in as they are.

    `without_input` is used where the input is empty. `truncatable` names the text that may be shortened to fit the
    context. `instruction_prefix` is put before the instruction. `follow_up` is the form of a later question of a
    conversation, empty where it is `without_input`.
    """

    name: str
    without_input: str
    with_input: str
    truncatable: Literal["", "instruction", "input"] = ""
    instruction_prefix: str = ""
    follow_up: str = ""

    @property
    def stop(self) -> tuple[str, ...]:
        r"""What ends an answer of a model that does not stop by itself: the tag of a next question.

        >>> TEMPLATES["alpaca"].stop, TEMPLATES["plain"].stop
        (('\n### Instruction:',), ())
        """
        tag = self.follow_up.partition("{instruction}")[0].strip()
        return (f"\n{tag}",) if tag else ()

    @property
    def turn_end(self) -> str:
        """Empty: an answer ends with the tokeniser's end-of-text."""
        return ""

    def render_conversation(self, conversation: Conversation, where: str = "") -> list[tuple[str, str]]:
        r"""Return the text before each answer, from the end of the answer before it, and the answer.

        >>> TEMPLATES["qa"].render_conversation(Conversation(("Who?", "Where?"), ("I.",), system="Be brief."))
        [('Be brief.\n\nWho? ## ', 'I.'), ('Where? ## ', '')]
        """
        head = f"{conversation.system}\n\n" if conversation.system else ""
        form = self.follow_up or self.without_input
        first, *later = conversation.questions
        prompts = [head + self.render(first, conversation.input)]
        prompts += [form.replace("{instruction}", question) for question in later]
        return list(zip_longest(prompts, conversation.answers[: len(prompts)], fillvalue=""))

    def render(self, instruction: str, input: str = "") -> str:
        """The whole prompt.

        >>> TEMPLATES["qa"].render("Where is Kunming?")
        'Where is Kunming? ## '
        """
        return "".join(self.parts(instruction, input))

    def parts(self, instruction: str, input: str = "") -> tuple[str, str, str]:
        r"""Head, middle and tail of the prompt, of which only the middle may be cut; it is empty where nothing may.

        >>> head, middle, tail = TEMPLATES["retention"].parts("A long passage.", "A question?")
        >>> middle
        'A long passage.'
        >>> tail.startswith("\n\n### Input:\nA question?")
        True
        """
        form = self.with_input if input else self.without_input
        if self.truncatable:
            head, found, tail = form.partition("{" + self.truncatable + "}")
            if found:
                middle, before = (
                    (instruction, self.instruction_prefix) if self.truncatable == "instruction" else (input, "")
                )
                return self._filled(head, instruction, input) + before, middle, self._filled(tail, instruction, input)
        return self._filled(form, instruction, input), "", ""

    def _filled(self, form: str, instruction: str, input: str) -> str:
        """A form with its texts; braces inside the texts are left alone."""
        filled = [piece.replace("{input}", input) for piece in form.split("{instruction}")]
        return (self.instruction_prefix + instruction).join(filled)


_RETENTION = (
    "Read the passage and answer the question below.\n\n### Instruction:\n{instruction}\n\n"
    "### Input:\n{input}\n\n### Response:"
)

TEMPLATES: dict[str, Template] = {
    "alpaca": Template(
        name="alpaca",
        without_input=(
            "Below is an instruction that describes a task. "
            "Write a response that appropriately completes the request.\n\n"
            "### Instruction:\n{instruction}\n\n### Response:"
        ),
        with_input=(
            "Below is an instruction that describes a task, paired with an input that provides further context. "
            "Write a response that appropriately completes the request.\n\n"
            "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
        ),
        follow_up="\n\n### Instruction:\n{instruction}\n\n### Response:",
    ),
    "retention": Template(
        name="retention",
        without_input=_RETENTION,
        with_input=_RETENTION,
        truncatable="instruction",
        follow_up="\n\n### Input:\n{instruction}\n\n### Response:",
    ),
    "plain": Template(name="plain", without_input="{instruction}", with_input="{instruction}{input}"),
    "qa": Template(name="qa", without_input="{instruction} ## ", with_input="{instruction}{input} ## "),
}
"""Stanford Alpaca's form; the contest's retention prompt (instruction: the passage, input: the question); the texts
alone; and the form of a question-answering GPT."""


def template_named(name: str) -> Template:
    """The template of that name.

    Raises: SettingsError where there is none, with the nearest name.
    """
    if name in TEMPLATES:
        return TEMPLATES[name]
    near = difflib.get_close_matches(name, TEMPLATES, 1)
    remedy = f"did you mean {near[0]}?" if near else ""
    raise SettingsError("template", f"{name!r} is not known", f"one of {', '.join(TEMPLATES)}", remedy)


def template_record(template: Template, wording: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint folder holds: the template, and under `wording` the settings in which the task was worded."""
    return {**asdict(template), **({"wording": dict(wording)} if wording else {})}


def load_task_prompt_settings(folder: Path) -> dict[str, Any]:
    """The wording that a checkpoint was trained in: the task's name and its settings; empty where none is held.

    Raises: ModelError where the file is damaged.
    """
    path = folder / TEMPLATE_FILE
    return _record(path)[1] if path.exists() else {}


def load_template(folder: Path, wanted: Template | None = None, *, force: bool = False) -> Template:
    """The template to use with a checkpoint: its own, which `wanted` must equal in text where it is given.

    A folder without a template, a plain base model, takes the wanted one; with `force` the wanted one is used anyway.
    Raises: ModelError where the checkpoint was trained with another template than the wanted one, its file is damaged,
    or neither is there.
    """
    path = folder / TEMPLATE_FILE
    if wanted is not None and (force or not path.exists()):
        return wanted
    if not path.exists():
        raise ModelError(str(folder), "has no prompt template of its own", TEMPLATE_FILE, "name the template to use")
    stored = _stored(path)
    if wanted is not None and _texts(stored) != _texts(wanted):
        found = f"was trained with the template {stored.name!r}, but {wanted.name!r} was asked for"
        if stored.name == wanted.name:
            found = f"was trained with another wording of the template {stored.name!r}"
            if stored.instruction_prefix != wanted.instruction_prefix:
                found += (
                    f": the instruction prefix {stored.instruction_prefix!r}, and not {wanted.instruction_prefix!r}"
                )
        remedy = "name that one, or force the other: --force-template, in a recipe task.force_template=true"
        raise ModelError(str(folder), found, "the same template", remedy)
    return stored


def _texts(template: Template) -> tuple[str, ...]:
    return template.without_input, template.with_input, template.instruction_prefix, template.follow_up


def _stored(path: Path) -> Template:
    return _record(path)[0]


def _record(path: Path) -> tuple[Template, dict[str, Any]]:
    """Template and wording. Raises: ModelError where the file does not hold a template."""
    try:
        found = read_json(path)
    except RunError as error:
        raise ModelError(str(path), error.found, "a prompt template", "save the checkpoint again") from None
    texts = dict(found) if isinstance(found, dict) else {}
    wording = texts.pop("wording", {})
    known = {one.name for one in fields(Template)}
    needed = {one.name for one in fields(Template) if one.default is MISSING}
    whole = isinstance(wording, dict) and needed <= set(texts) <= known
    if (
        not whole
        or not all(isinstance(text, str) for text in texts.values())
        or not _cuts(texts.get("truncatable", ""))
    ):
        raise ModelError(
            str(path), "is not a template", f"texts for {', '.join(sorted(known))}", "save the checkpoint again"
        )
    return Template(**texts), wording


def _cuts(name: str) -> bool:
    return name in ("", "instruction", "input")
