"""Settings of a synthesis: the articles, the server, the rules of a pair, and how often to ask."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from lotune.data.cleaning import Cleaning
from lotune.data.corpus import Corpus
from lotune.settings import Settings

Fraction = Annotated[float, Field(ge=0, le=1)]
DEFAULT_LANGUAGE, LONGER_QUESTIONS = "zh", (1, 100)
Count = Annotated[int, Field(ge=1)]


class ServerSettings(Settings):
    """An OpenAI-compatible server and its model."""

    url: str = "http://127.0.0.1:8000"
    """Address of the server, with or without /v1."""
    model: str = ""
    """Name of the model there; empty: the first one that the server lists."""
    key_env: str = "LOTUNE_API_KEY"
    """Environment variable of the server's key, if it needs one."""
    temperature: Annotated[float, Field(ge=0, le=5)] = 0.45
    """Sampling temperature."""
    max_tokens: Count = 2048
    """Longest reply in tokens."""
    timeout: Annotated[float, Field(gt=0)] = 300.0
    """Seconds after which a request is given up and sent again."""
    json_schema: Literal["auto", "on", "off"] = "auto"
    """Ask for JSON that follows a schema; auto: until the server refuses it."""


class PairRules(Settings):
    """Rules that each reply is checked against."""

    fewest: Count = 3
    """Fewest pairs of a reply."""
    most: Count = 6
    """Most pairs of a reply."""
    question_characters: tuple[int, int] = (1, 15)
    """Shortest and longest question, in characters; in English 1 to 100 if it is not set."""
    answer_characters: tuple[int, int] = (1, 300)
    """Shortest and longest answer, in characters."""
    pronouns: bool = False
    """Whether a question may have a pronoun in place of its subject."""
    grounding: Fraction = 0.5
    """Least share of an answer's pairs of characters (words, in other scripts) that the article has."""

    @model_validator(mode="after")
    def _in_order(self) -> PairRules:
        for name in ("question_characters", "answer_characters"):
            low, high = getattr(self, name)
            if not 1 <= low <= high:
                raise ValueError(f"{name} {low} to {high} is no range")
        if self.fewest > self.most:
            raise ValueError(f"fewest {self.fewest} is more than most {self.most}")
        return self


class RequestSettings(Settings):
    """How many requests, and how often."""

    at_once: Annotated[int, Field(ge=1, le=1024)] = 32
    """Most requests under way at once; fewer where the server is overloaded by them."""
    retries: Annotated[int, Field(ge=0)] = 3
    """How often a reply that breaks a rule is asked for again, with the reason."""
    faults: Count = 8
    """How often a request that the server fails is sent again; then its article stays pending."""


class QualitySettings(Settings):
    """A second model that grades each reply from 1 to 5."""

    server: ServerSettings = ServerSettings()
    """The server of the judge."""
    at_least: Annotated[int, Field(ge=1, le=5)] = 3
    """Grade below which a reply is refused."""


class PriceSettings(Settings):
    """Prices for the account, in any currency."""

    prompt: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million prompt tokens."""
    completion: Annotated[float, Field(ge=0)] = 0.0
    """Price of a million tokens of replies."""


class SynthesisSettings(Settings):
    """A recipe of `lotune synthesize`."""

    remedy: ClassVar[str] = "`docs/how-to/synthesis.md` shows the settings, `--dry-run` what they make"

    articles: Path
    """File or folder of articles, as for a corpus."""
    out: Path = Path("synthesis")
    """Folder for the pairs, the ledger and the account."""
    limit: Count | None = None
    """Number of articles; null: all."""
    cleaning: Cleaning = "none"
    """Rules by which articles are cleaned first: none or wiki."""
    text_key: str = Corpus.text_key
    """Key of the text in files of articles."""
    article_characters: Count = 6000
    """An article is cut after so many characters."""
    language: Literal["zh", "en"] = "zh"
    """Language of the default prompt."""
    system: str | None = None
    """System prompt; null: that of the language."""
    prompt: str | None = None
    """Template of the request; {article}, {fewest}, {most}, {question_min}, {question_max}, {answer_min} and
    {answer_max} are replaced. null: that of the language."""
    server: ServerSettings = ServerSettings()
    """The server that writes the pairs."""
    rules: PairRules = PairRules()
    """Rules of a pair."""
    requests: RequestSettings = RequestSettings()
    """Number of requests."""
    quality: QualitySettings | None = None
    """A second model that grades the replies; null: none."""
    prices: PriceSettings = PriceSettings()
    """Prices of tokens."""

    @property
    def pair_rules(self) -> PairRules:
        """The rules, with longer questions where the language needs more characters for as much and none were set."""
        if self.language == DEFAULT_LANGUAGE or "question_characters" in self.rules.model_fields_set:
            return self.rules
        return self.rules.model_copy(update={"question_characters": LONGER_QUESTIONS})

    @model_validator(mode="after")
    def _prompt_has_the_article(self) -> SynthesisSettings:
        if self.prompt is not None and "{article}" not in self.prompt:
            raise ValueError("prompt has no {article}")
        return self
