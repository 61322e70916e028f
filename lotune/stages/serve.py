"""`lotune serve`: an OpenAI-compatible server for models and adapters."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotune.console import print_status
from lotune.errors import DataError, SettingsError, install_extra
from lotune.recipe import Recipe
from lotune.serve.limits import BATTLES_PER_MINUTE
from lotune.stages.model_loading import check_quantize
from lotune.stages.output_files import require_single_process
from lotune.stages.served_models import load_served_models

if TYPE_CHECKING:
    from lotune.serve.limits import Limits
    from lotune.serve.models import ServedModel

EXAMPLES_FILE, FLAGS_FILE = Path("examples.csv"), Path("flagged.jsonl")
EXAMPLE_HEADERS = ("prompt", "question", "example", "examples", "input", "instruction", "问题", "示例", "提示")
"""Names that the first row of a file of examples may have in place of an example."""
MAX_EXAMPLES, MAX_EXAMPLE_CHARACTERS = 50, 2000


@dataclass(frozen=True)
class ServeOptions:
    """Where to listen, and who may ask."""

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Path | None = None
    allowed_hosts: Sequence[str] = ()
    cors_origins: Sequence[str] = ()
    memory_bytes: int | None = None
    ui: bool = False
    runs: Path | None = None
    examples: Path | None = None
    flags: Path | None = None
    votes: Path | None = None
    """File of the arena's votes; None for a server without an arena."""
    battles: int = BATTLES_PER_MINUTE
    """Battles a minute that one person, or address, may start in the arena."""
    remote_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Keys of other servers, by the name of the model there."""


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
    check_quantize(recipe)
    try:
        from lotune.arena.battles import Arena, Opponent
        from lotune.arena.store import VoteStore
        from lotune.serve.app import ServerOptions, build_app
        from lotune.serve.arena_app import ArenaOptions
        from lotune.serve.gateway import Gateway
        from lotune.serve.keys import read_keys
        from lotune.serve.listening import listening_socket
        from lotune.serve.metrics import Metrics
        from lotune.serve.models import Models
        from lotune.serve.pages_app import PRESET
        from lotune.serve.remote import remote_model
        from lotune.serve.server import run_server
    except ModuleNotFoundError as error:
        raise SettingsError("serve", f"the package {error.name} is missing", remedy=install_extra("serve")) from None
    keys = read_keys(options.keys) if options.keys else None
    others = [remote_model(name, address, options.remote_keys.get(name, "")) for name, address in remotes.items()]
    pages = _pages(options)
    store = VoteStore(options.votes) if options.votes is not None else None
    bound = listening_socket(options.host, options.port)  # before the models, which take longer
    hosts = _hosts(options)
    served = load_served_models(recipe, models, adapters, options.memory_bytes)
    metrics = Metrics()
    gateway = Gateway(Models(served, others), limits, metrics)
    metrics.watch(gateway.worker)
    for model in served:
        if model.int8_agreement is not None:
            metrics.int8_agreement.labels(model.name).set(model.int8_agreement)
    port = bound.getsockname()[1]
    address = f"[{options.host}]" if ":" in options.host else options.host
    if keys is None and not _is_loopback(options.host):
        print_status(f"warning: everybody who reaches {options.host} can use this server; --keys FILE asks for a key")
    names = ", ".join(gateway.models.names)
    if store is not None and pages is not None:
        opponents = [Opponent(model.name, model.digest, _template_name(model)) for model in served]
        arena = Arena([*opponents, *(Opponent(other.name) for other in others)], store, PRESET)
        pages = replace(pages, arena=arena, arena_options=ArenaOptions(per_minute=options.battles))
    app = build_app(gateway, ServerOptions(hosts, keys, options.cors_origins, pages))
    path = f"/ui/{'arena' if store is not None else 'chat'}" if pages else ""
    run_server(app, gateway, bound, lambda: print_status(f"{names}: ready on http://{address}:{port}{path}"))


def _template_name(model: ServedModel) -> str:
    """Return the name of a model's prompt template, "chat" for a template of its tokeniser."""
    return str(getattr(model.form, "name", "chat"))


def _pages(options: ServeOptions) -> Any:
    """Return what the pages show, None for a server without pages.

    Raises: SettingsError for a folder of runs that is not there; DataError for a file of examples that cannot be read.
    """
    if not options.ui:
        if given := next(
            (name for name in ("runs", "examples", "flags", "votes") if getattr(options, name) is not None), None
        ):
            option = "--arena" if given == "votes" else f"--{given}"
            raise SettingsError(option, "is for the pages", remedy="add --ui")
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
