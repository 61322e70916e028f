"""The command `lotune chat`."""

from __future__ import annotations

from typing import Annotated

import typer

from lotune.cli.execution import model_of_run, recipe_from_options, run_verb
from lotune.cli.options import BaseModel, Debug, ForceTemplate, RepetitionPenalty, Seed, Server, Temperature, TopK, TopP
from lotune.errors import SettingsError


def chat(
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[key=value]...", help="Settings to change.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Model: a folder, that of a run, a name on the hub, or nano, the default.")
    ] = None,
    server: Server = None,
    base: BaseModel = None,
    temperature: Temperature = 0.0,
    top_k: TopK = None,
    top_p: TopP = 1.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    seed: Seed = 0,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Maximum length of an answer in tokens.")] = 256,
    force_template: ForceTemplate = False,
    debug: Debug = False,
) -> None:
    """Chat with a model in the terminal."""

    def work() -> None:
        from lotune.generate.sampling import sampling_from_options
        from lotune.model.loading import NANO
        from lotune.stages.chat import chat, chat_with_server
        from lotune.tasks.registry import CONVERSATION_TASK

        sampling = sampling_from_options(temperature, top_k, top_p, repetition_penalty, seed)
        if server is not None:
            if overrides or base:
                raise SettingsError("--server", "a server has its own settings", remedy="remove --base and settings")
            chat_with_server(server, model or "", sampling, max_new_tokens)
            return
        # Any model can chat; the task supplies the template for one without a chat template.
        recipe = recipe_from_options("chat", CONVERSATION_TASK, overrides or [], base)
        chat(recipe, model_of_run(model or NANO), sampling, max_new_tokens, force_template)

    run_verb(work, json=False, debug=debug)
