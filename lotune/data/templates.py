"""Prompt templates: the text around an instruction, the same in training, evaluation and serving.

Every checkpoint has its template beside it (`lotune_template.json`), so that the model gets prompts in the format of
its training. The file also stores the prompt settings of the task, such as the prompt of a custom task.

A conversation is one text: the system message and an empty line, if there is a system message; the first question in
the full template, and its answer; then each later question in the format `follow_up`, which has the template's tags
without its opening sentence, and its answer. Every answer ends with the tokeniser's end-of-text token.
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
    """Format of a prompt; `{instruction}` and `{input}` stand for the texts, which are inserted verbatim.

    `without_input` is the format if the input is empty. `truncatable` names the text that may be truncated to fit the
    context. `instruction_prefix` is put before the instruction. `follow_up` is the format of a later question of a
    conversation; if it is empty, this is `without_input`. `answer_end` is the token with which chat models of this
    format end an answer, if it is not their end-of-text; after a tuning, answers end with end-of-text.
    """

    name: str
    without_input: str
    with_input: str
    truncatable: Literal["", "instruction", "input"] = ""
    instruction_prefix: str = ""
    follow_up: str = ""
    answer_end: str = ""

    @property
    def stop(self) -> tuple[str, ...]:
        r"""Stop strings of an answer, for a model that does not stop by itself: its end, the tag of the next question.

        >>> [TEMPLATES[name].stop for name in ("alpaca", "plain", "internlm")]
        [('\n### Instruction:',), (), ('<eoa>', '\n<|User|>:')]
        """
        tag = self.follow_up.partition("{instruction}")[0].strip()
        return tuple(text for text in (self.answer_end, tag and f"\n{tag}") if text)

    @property
    def turn_end(self) -> str:
        """Empty: an answer ends with the tokeniser's end-of-text."""
        return ""

    def render_conversation(self, conversation: Conversation, where: str = "") -> list[tuple[str, str]]:
        r"""Return the text before each answer, from the end of the answer before it, and the answer.

        >>> TEMPLATES["qa"].render_conversation(Conversation(("Who?", "Where?"), ("I.",), system="Be brief."))
        [('Be brief.\n\nWho?##', 'I.'), ('Where?##', '')]
        """
        head = f"{conversation.system}\n\n" if conversation.system else ""
        follow_up = self.follow_up or self.without_input
        question, *further = conversation.questions
        prompts = [head + self.render(question, conversation.input)]
        prompts += [follow_up.replace("{instruction}", question) for question in further]
        return list(zip_longest(prompts, conversation.answers[: len(prompts)], fillvalue=""))

    def render(self, instruction: str, input: str = "") -> str:
        """Return the whole prompt.

        >>> TEMPLATES["qa"].render("Where is Kunming?")
        'Where is Kunming?##'
        """
        return "".join(self.parts(instruction, input))

    def parts(self, instruction: str, input: str = "") -> tuple[str, str, str]:
        r"""Return head, middle and tail of the prompt; only the middle may be truncated. It is empty if nothing may.

        >>> head, middle, tail = TEMPLATES["retention"].parts("A long passage.", "A question?")
        >>> middle
        'A long passage.'
        >>> tail.startswith("\n\n### Input:\nA question?")
        True
        """
        form = self.with_input if input else self.without_input
        if self.truncatable:
            head, placeholder, tail = form.partition("{" + self.truncatable + "}")
            if placeholder:
                middle, prefix = (
                    (instruction, self.instruction_prefix) if self.truncatable == "instruction" else (input, "")
                )
                return self._fill(head, instruction, input) + prefix, middle, self._fill(tail, instruction, input)
        return self._fill(form, instruction, input), "", ""

    def _fill(self, form: str, instruction: str, input: str) -> str:
        # Not str.format: the texts may contain braces.
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
    "qa": Template(name="qa", without_input="{instruction}##", with_input="{instruction}{input}##"),
    "internlm": Template(
        name="internlm",
        without_input="<|User|>:{instruction}<eoh>\n<|Bot|>:",
        with_input="<|User|>:{instruction}\n{input}<eoh>\n<|Bot|>:",
        follow_up="\n<|User|>:{instruction}<eoh>\n<|Bot|>:",
        answer_end="<eoa>",
    ),
}
"""Stanford Alpaca's format; the contest's retention prompt (instruction: the passage, input: the question); the texts
alone; the format of a question-answering GPT, whose separator is one token of GPT-2 (2235); and the turns of
InternLM-chat."""


def template_named(name: str) -> Template:
    """Return the template of that name. Raises: SettingsError with the nearest name if there is none."""
    if name in TEMPLATES:
        return TEMPLATES[name]
    near = difflib.get_close_matches(name, TEMPLATES, 1)
    remedy = f"did you mean {near[0]}?" if near else ""
    raise SettingsError("template", f"{name!r} is not known", f"one of {', '.join(TEMPLATES)}", remedy)


def template_record(template: Template, wording: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a template file: the template and, under `wording`, the prompt settings of the task."""
    return {**asdict(template), **({"wording": dict(wording)} if wording else {})}


def load_task_prompt_settings(folder: Path) -> dict[str, Any]:
    """Return the name and the prompt settings of the task that a checkpoint was trained on; empty if none are stored.

    Raises: ModelError if the file is damaged.
    """
    path = folder / TEMPLATE_FILE
    return _read_template(path)[1] if path.exists() else {}


def load_template(folder: Path, requested: Template | None = None, *, force: bool = False) -> Template:
    """Return the template to use with a checkpoint: the stored one, which must have the texts of a requested one.

    For a folder without a template, such as a base model, and with `force`, it is the requested one.

    Raises: ModelError if the checkpoint was trained with another template than the requested one, if its file is
    damaged, or if there is neither a stored nor a requested template.
    """
    path = folder / TEMPLATE_FILE
    if requested is not None and (force or not path.exists()):
        return requested
    if not path.exists():
        raise ModelError(str(folder), "has no prompt template", TEMPLATE_FILE, "name the template to use")
    stored, _ = _read_template(path)
    if requested is not None and _texts(stored) != _texts(requested):
        found = f"was trained with the template {stored.name!r}, but {requested.name!r} was requested"
        if stored.name == requested.name:
            found = f"was trained with another wording of the template {stored.name!r}"
            if stored.instruction_prefix != requested.instruction_prefix:
                found += f": the instruction prefix {stored.instruction_prefix!r}, not {requested.instruction_prefix!r}"
        remedy = "name the template of its training, or use --force-template (in a recipe: task.force_template=true)"
        raise ModelError(str(folder), found, "the same template", remedy)
    return stored


def _texts(template: Template) -> tuple[str, ...]:
    return template.without_input, template.with_input, template.instruction_prefix, template.follow_up


def _read_template(path: Path) -> tuple[Template, dict[str, Any]]:
    """Return the template and the task's prompt settings. Raises: ModelError if the file holds no template."""
    try:
        content = read_json(path)
    except RunError as error:
        raise ModelError(str(path), error.found, "a prompt template", "save the checkpoint again") from None
    texts = dict(content) if isinstance(content, dict) else {}
    wording = texts.pop("wording", {})
    names = {field.name for field in fields(Template)}
    required = {field.name for field in fields(Template) if field.default is MISSING}
    is_template = (
        isinstance(wording, dict)
        and required <= set(texts) <= names
        and all(isinstance(text, str) for text in texts.values())
        and texts.get("truncatable", "") in ("", "instruction", "input")
    )
    if not is_template:
        expected = f"texts for {', '.join(sorted(names))}"
        raise ModelError(str(path), "is not a template", expected, "save the checkpoint again")
    return Template(**texts), wording
