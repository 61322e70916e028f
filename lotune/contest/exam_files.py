"""The files of the exam: what an entrant hands in for a dataset, and the settings that ask for it.

The exam asks for prepared rows in `pre_data/`, the tuned adapter in `saved_model/`, and the answers in `result_….txt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from lotune.settings import Settings

ANSWERS = 150
"""Number of development rows that the exam has answered."""


class ExamSettings(Settings):
    """Settings of the exam's hand-in, which a finished run writes."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    """Name of the dataset in the names of the files, such as CoLA or QQP."""
    dev: Path
    """File of the rows to answer; labels are not needed."""
    folder: Path = Path(".")
    """Folder to write pre_data, saved_model and the results to."""
    answers: int = Field(ANSWERS, ge=1)
    """Number of rows to answer, the first ones of the file."""

    @property
    def files(self) -> ExamFiles:
        """The files to hand in."""
        return ExamFiles(self.folder, self.name)


@dataclass(frozen=True)
class ExamFiles:
    """The files of a dataset under the folder that is handed in."""

    folder: Path
    dataset: str

    @property
    def train(self) -> Path:
        """The prepared rows to train on: a json list with `instruction`, `input` and `output`, the label."""
        return self._pre_data / f"{self.dataset}_train.json"

    @property
    def dev(self) -> Path:
        """The prepared rows to answer: a json list with `instruction` and `input`."""
        return self._pre_data / f"{self.dataset}_dev.json"

    @property
    def _pre_data(self) -> Path:
        return self.folder / "pre_data" / self.dataset

    @property
    def saved_model(self) -> Path:
        """The folder of the tuned adapter."""
        return self.folder / "saved_model" / self.dataset

    @property
    def result(self) -> Path:
        """The answers: one label in each line, in the order of the rows."""
        return self.folder / f"result_{self.dataset}.txt"
