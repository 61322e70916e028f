"""`lotune serve`: an OpenAI-compatible server for models and adapters."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.errors import DataError, ModelError, SettingsError, install_extra
from lotune.model.loading import base_folder
from lotune.model.settings import BaseSettings
from lotune.recipe import Recipe
from lotune.stages.model_loading import load_model_or_adapter, resolve_weights, with_resolved_dtype
from lotune.stages.output_files import require_single_process
from lotune.stages.prompt_template import conversation_format, resolve_auto, with_stored_template

if TYPE_CHECKING:
    from lotune.serve.limits import Limits
    from lotune.serve.models import ServedModel

EXAMPLES_FILE, FLAGS_FILE = Path("examples.csv"), Path("flagged.jsonl")
EXAMPLE_HEADERS = ("prompt", "question", "example", "examples", "text", "input", "instruction", "问题", "示例", "提示")
"""Names that the first row of a file of examples may have in place of an example."""
MAX_EXAMPLES, MAX_EXAMPLE_CHARACTERS = 50, 2000
PREFIX_CACHE_BYTES = 256 * 2**20
"""Memory for keys and values of ended conversations, for each set of weights."""


@dataclass(frozen=True)
class ServeOptions:
    """Where to listen, and who may ask."""

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    allowed_hosts: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    ui: bool = False
    runs: Path | None = None
    examples: Path | None = None
    flags: Path | None = None


def serve(
    recipe: Recipe,
    models: Mapping[str, str],
    adapters: Mapping[str, str],
    remotes: Mapping[str, str],
    limits: Limits,
    options: ServeOptions,
) -> None:
    """Serve models and adapters, by name, and those at the addresses of `remotes`, until the process is told to end.

    Raises: SettingsError for an address, a file of keys or names that cannot be used, or if a package is missing;
    ModelError for a model that cannot be loaded.
    """
    require_single_process("serve")
    try:
        from lotune.serve.app import ServerOptions, build_app
        from lotune.serve.gateway import Gateway
        from lotune.serve.keys import read_keys
        from lotune.serve.metrics import Metrics
        from lotune.serve.models import Models
        from lotune.serve.remote import remote_model
        from lotune.serve.server import listening_socket, run_server
    except ModuleNotFoundError as error:
        raise SettingsError("serve", f"the package {error.name} is missing", remedy=install_extra("serve")) from None
    keys = read_keys(options.keys) if options.keys else None
    others = [remote_model(name, address) for name, address in remotes.items()]
    pages = _pages(options)
    bound = listening_socket(options.host, options.port)  # before the models, which take longer
    hosts = _hosts(options)
    served = load_served_models(recipe, models, adapters)
    metrics = Metrics()
    gateway = Gateway(Models(served, others), limits, metrics)
    metrics.watch(gateway.worker)
    port = bound.getsockname()[1]
    address = f"[{options.host}]" if ":" in options.host else options.host
    if keys is None and not _is_loopback(options.host):
        print_status(f"warning: everybody who reaches {options.host} can use this server; --keys FILE asks for a key")
    names = ", ".join(model.name for model in served)
    app = build_app(gateway, ServerOptions(hosts, keys, options.cors_origins, pages))
    path = "/ui/chat" if pages else ""
    run_server(app, gateway, bound, lambda: print_status(f"{names}: ready on http://{address}:{port}{path}"))


def _pages(options: ServeOptions) -> Any:
    """Return what the pages show, None for a server without pages.

    Raises: SettingsError for a folder of runs that is not there; DataError for a file of examples that cannot be read.
    """
    if not options.ui:
        if given := next((name for name in ("runs", "examples", "flags") if getattr(options, name) is not None), None):
            raise SettingsError(f"--{given}", "is for the pages", remedy="add --ui")
        return None
    from lotune.serve.pages_app import PageOptions
    from lotune.stages.served_runs import ServedRuns

    if options.runs is not None and not options.runs.is_dir():
        raise SettingsError("--runs", f"{options.runs} is not a folder", "the folder that holds the runs")
    runs = ServedRuns(options.runs) if options.runs is not None else None
    return PageOptions(_examples(options.examples), options.flags or FLAGS_FILE, runs)


def _examples(file: Path | None) -> list[str]:
    """Return the first texts of the rows of a csv file; without a file, those of `examples.csv` if it is there.

    Raises: DataError for a file that is missing or not UTF-8.
    """
    if file is None and not EXAMPLES_FILE.is_file():
        return []
    path = file or EXAMPLES_FILE
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            texts = [row[0].strip() for row in islice(csv.reader(stream), MAX_EXAMPLES) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(str(path), f"cannot be read: {error}", "a csv file in UTF-8", "--examples FILE") from None
    texts = texts[1:] if texts and texts[0].lower() in EXAMPLE_HEADERS else texts
    return [text[:MAX_EXAMPLE_CHARACTERS] for text in texts if text]


def _is_loopback(host: str) -> bool:
    return host in ("localhost", "::1") or host.startswith("127.")


def _hosts(options: ServeOptions) -> Sequence[str]:
    """Return the names under which the server may be asked: on this machine alone, those of this machine."""
    from lotune.serve.guard import LOOPBACK_HOSTS

    if not _is_loopback(options.host):
        return options.allowed_hosts
    return (*LOOPBACK_HOSTS, options.host, *options.allowed_hosts)


def load_served_models(recipe: Recipe, models: Mapping[str, str], adapters: Mapping[str, str]) -> list[ServedModel]:
    """Load models, and adapters beside the weights of their bases, which are loaded once.

    A model is a folder, a name on the hub or nano. An adapter that cannot be chosen per request has weights of its own.

    Raises: SettingsError for two models of one name; ModelError as `load_model_or_adapter` does.
    """
    groups = _grouped(recipe, models, adapters)
    served: list[ServedModel] = []
    for group in groups:
        served += group.load(recipe)
    return served


@dataclass
class _Group:
    """Models that share weights: `base` has the name and source of the base, `adapters` those of its adapters."""

    source: str
    name: str | None
    adapters: dict[str, str]

    def load(self, recipe: Recipe) -> list[ServedModel]:
        """Load the weights once, and return a model for the base, if it has a name, and for each adapter."""
        from lotune.generate.answering_model import AnsweringModel
        from lotune.generate.requests import NO_ADAPTER
        from lotune.model.checkpoints import load_adapter, load_beside
        from lotune.serve.models import ServedModel

        recipe = with_resolved_dtype(recipe, self.source)
        base: Any = load_model_or_adapter(recipe, self.source)
        model, names = base.model, dict[str, str]()
        for number, (name, folder) in enumerate(self.adapters.items()):
            if number == 0:
                model, names[name] = load_adapter(base, Path(folder), force_base=recipe.adapter.force_base), "default"
            else:
                names[name] = f"adapter{number}"
                load_beside(model, base, Path(folder), names[name], force_base=recipe.adapter.force_base)
        answering = AnsweringModel(model, base.tokenizer, prefix_cache_bytes=PREFIX_CACHE_BYTES)
        answering.engine  # noqa: B018 - built now, so that a model that cannot generate is refused
        served = []
        if self.name is not None:
            form = conversation_form(recipe, self.source)
            served.append(ServedModel(self.name, answering, form, NO_ADAPTER if self.adapters else None))
        for name, folder in self.adapters.items():
            form = conversation_form(recipe, folder)
            served.append(ServedModel(name, answering, form, names[name], self.name or base.name))
        return served


def conversation_form(recipe: Recipe, model: str) -> Any:
    """Return the template of a model: that of its tuning, or the one of its tokeniser."""
    weights, _ = resolve_weights(recipe, model)
    return conversation_format(resolve_auto(with_stored_template(recipe.task, model, False), weights), weights)


def _grouped(recipe: Recipe, models: Mapping[str, str], adapters: Mapping[str, str]) -> list[_Group]:
    groups: list[_Group] = []
    for name, source in models.items():
        groups.append(_Group(source, name, {}))
    for name, folder in adapters.items():
        base, adapter = resolve_weights(recipe, folder)
        if adapter is None:
            raise ModelError(folder, "is a complete model, not an adapter", remedy=f"--model {folder}")
        group = next((group for group in groups if _same_model(group.source, base.model)), None)
        if group is None or not _is_selectable(adapter):
            groups.append(
                _Group(folder, name, {}) if not _is_selectable(adapter) else _Group(base.model, None, {name: folder})
            )
        else:
            group.adapters[name] = folder
    return groups


def _same_model(source: str, other: str) -> bool:
    folders = [base_folder(BaseSettings(model=name)) for name in (source, other)]
    return source == other if None in folders else folders[0].resolve() == folders[1].resolve()  # type: ignore[union-attr]


def _is_selectable(adapter: Path) -> bool:
    """Return whether requests can choose an adapter; its own weights are loaded otherwise."""
    from lotune.model.checkpoints import read_adapter_config
    from lotune.model.methods.registry import METHODS, method_name

    config = read_adapter_config(adapter)
    method = METHODS.get(method_name(config))
    return method is not None and method.selectable(config)
