"""What a submitter states of a system, its model and its data set: a YAML file beside the runs, checked key by key.

A run knows its requests, its load and often its machine; everything else that the rules want disclosed (8.2, 8.3) is stated here.
What is not stated is left out of the submission, and named as missing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from bytemlperf import checked_yaml
from bytemlperf.checked import Checked
from bytemlperf.errors import UserError
from bytemlperf.runs.files import UNREADABLE, json_of, why

Word = Annotated[str, Meta(min_length=1, max_length=500)]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")]
Count = Annotated[int, Meta(ge=0, le=1 << 30)]
Url = Annotated[str, Meta(pattern=r"^https?://\S+\Z")]
NOT_STATED = "not stated"


class Node(Checked, frozen=True, kw_only=True, omit_defaults=True):
    """One node of the system; keys as in the rules' 8.2. `accelerator_card` is a card of `bmp hardware list`."""

    number_of_nodes: Annotated[int, Meta(ge=1)] = 1
    host_processor_model_name: Word | None = None
    host_processors_per_node: Count | None = None
    host_processor_core_count: Count | None = None
    host_memory_capacity: Word | None = None
    host_memory_configuration: Word = NOT_STATED
    host_network_card_count: Word = NOT_STATED
    host_networking: Word | None = None
    host_storage_capacity: Word | None = None
    host_storage_type: Word | None = None
    accelerator_card: Word | None = None
    accelerators_per_node: Count | None = None
    accelerator_interconnect: Word | None = None
    inference_backend: Word | None = None
    driver: Word = NOT_STATED
    operating_system: Word | None = None
    filesystem: Word = NOT_STATED
    container_link: Word | None = None


class System(Checked, frozen=True, kw_only=True):
    """What is measured."""

    name: Word = NOT_STATED
    short_name: Annotated[str, Meta(min_length=1, max_length=20)] = NOT_STATED
    availability: Literal["Available", "Preview", "RDI"] = "RDI"
    availability_url: Url | None = None
    target_availability_date: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-\d{2}\Z")] | None = None
    max_supported_concurrency: Annotated[int, Meta(ge=1)] | None = None
    cooling: Literal["air", "liquid"] = "air"
    serving_framework: Word | None = None
    tensor_parallel: Annotated[int, Meta(ge=1)] = 1
    pipeline_parallel: Annotated[int, Meta(ge=1)] = 1
    expert_parallel: Annotated[int, Meta(ge=1)] = 1
    data_parallel: Annotated[int, Meta(ge=1)] = 1
    node: Node = Node()

    def __post_init__(self) -> None:
        if self.availability == "Available" and self.availability_url is None:
            raise ValueError("an Available system needs availability_url; give the address of its public offer")
        if self.availability == "Preview" and self.target_availability_date is None:
            raise ValueError("a Preview system needs target_availability_date; give it as YYYY-MM-DD")


class Model(Checked, frozen=True, kw_only=True):
    """The benchmark's model; `name` as the rules' list has it (3.2), which is also the folder's."""

    name: Name | None = None
    precision: Word | None = None
    link: Word | None = None
    transformation: Word | None = None
    notes: Word | None = None


class Dataset(Checked, frozen=True, kw_only=True):
    """The performance data set; `size` is the number of prompts in one pass, and that of the run's own files where they are known."""

    name: Name | None = None
    display_name: Word | None = None
    type: Literal["Accuracy", "Performance", "Accuracy + Performance"] = "Performance"
    link: Word | None = None
    size: Annotated[int, Meta(ge=1)] | None = None


class Disclosure(Checked, dict=True, frozen=True, kw_only=True):
    """The file. `accuracy` maps a concurrency to the file of its accuracy results, as the reference client writes them."""

    organization: Name = "organization"
    submission: Name = "submission"
    division: Literal["Standardized", "Serviced", "RDI"] = "RDI"
    system: System = System()
    model: Model = Model()
    dataset: Dataset = Dataset()
    target_cohort: Annotated[str, Meta(pattern=r"^\d{4}-\d{2}-C[01]\Z")] | None = None
    accuracy: dict[int, Annotated[str, Meta(min_length=1)]] = {}  # noqa: RUF012  # a struct: each gets a copy of its own
    power: Annotated[str, Meta(min_length=1)] | None = None

    def file(self, name: str) -> Any:
        """What the JSON file of this name holds, which is looked for beside the disclosure. Raises UserError."""
        path = self.__dict__["folder"] / name
        try:
            return json_of(path)
        except UNREADABLE as error:
            raise UserError(f"{path} can't be read: {why(error)}", "give a JSON file, relative to the disclosure") from None


def read_disclosure(path: Path | None) -> Disclosure:
    """Of this file, and of readable files that it names; of nothing, where nothing is stated. Raises UserError."""
    if path is None:
        return Disclosure()
    disclosure = checked_yaml.load(path, Disclosure)
    disclosure.__dict__["folder"] = path.parent
    for name in {*disclosure.accuracy.values(), *filter(None, [disclosure.power])}:
        disclosure.file(name)
    return disclosure
