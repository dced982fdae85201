"""The scenario file: what users do, written down once, so that any engine can be measured by it.

A scenario says what is sent (prompts, answer lengths, sampling), when (arrival), for how long, how
patient the client is (timeouts), and what counts as good (SLOs). It says nothing of engines or
models. `load` takes the name of a built-in scenario or the path of a YAML file; everything is
checked here, before anything starts. docs/scenarios.md describes every key.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

import scenarios
from bytemlperf import checked_yaml
from bytemlperf.errors import UserError

BUILTIN_FOLDER = Path(scenarios.__file__).parent
MAX_TOKENS = 1 << 20
"""Upper bound of any length, tokens or words: past it a typing error is likelier than a wish."""

Process = Literal["poisson", "constant", "gamma", "closed", "at_once", "trace"]
PROCESS_WORDS: dict[Process, str] = {
    "poisson": "Poisson",
    "constant": "constant gaps",
    "gamma": "gamma gaps",
    "at_once": "all at once",
    "trace": "at the trace's own times",
}
TraceFormatName = Literal["mooncake", "azure", "burstgpt", "bailian", "timed_trace", "custom", "sharegpt"]
UNTIMED_FORMATS = ("custom", "sharegpt")
Tokens = Annotated[int, Field(ge=1, le=MAX_TOKENS)]
Seconds = Annotated[float, Field(gt=0)]
Milliseconds = Annotated[float, Field(gt=0)]
Rate = Annotated[float, Field(gt=0, le=1e6)]


def _number_or_auto(value: Any) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is None or value == "auto" or (number and 0 < value <= 1e6):
        return value
    raise ValueError(f"{value!r} is not a rate; give requests per second, a number above 0, or auto")


class _Part(BaseModel):
    """Strict, so that `true` is no 1 and `"60"` no 60; frozen, so that what ran is what was read."""

    model_config = ConfigDict(defer_build=True, extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


# --- lengths ----------------------------------------------------------------------------------


class Constant(_Part):
    """Always `value`."""

    distribution: Literal["constant"]
    value: Tokens


class _Bounded(_Part):
    """`min` and `max` clip: a draw outside becomes the bound."""

    min: Tokens
    max: Tokens

    @model_validator(mode="after")
    def _ordered(self) -> _Bounded:
        if self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}; swap them")
        return self


class Uniform(_Bounded):
    """Every whole number from `min` to `max`, both included, equally often."""

    distribution: Literal["uniform"]


class Normal(_Bounded):
    """Mean and standard deviation before clipping."""

    distribution: Literal["normal"]
    mean: Annotated[float, Field(gt=0, le=MAX_TOKENS)]
    std: Annotated[float, Field(ge=0, le=MAX_TOKENS)]


class Lognormal(_Bounded):
    """`mean` is the distribution's own mean before clipping: mu = ln(mean) - sigma^2 / 2."""

    distribution: Literal["lognormal"]
    mean: Annotated[float, Field(gt=0, le=MAX_TOKENS)]
    sigma: Annotated[float, Field(ge=0, le=5)]


class Empirical(_Part):
    """One of `values`; `weights`, where given, say how often each, relative to the others."""

    distribution: Literal["empirical"]
    values: Annotated[tuple[Tokens, ...], Field(min_length=1, strict=False)]
    weights: Annotated[tuple[Annotated[float, Field(ge=0)], ...] | None, Field(strict=False)] = None

    @model_validator(mode="after")
    def _weighed(self) -> Empirical:
        if self.weights is not None and len(self.weights) != len(self.values):
            raise ValueError(f"{len(self.values)} values but {len(self.weights)} weights; give one weight for each value")
        if self.weights is not None and sum(self.weights) <= 0:
            raise ValueError("all weights are 0; give at least one above 0")
        return self


Lengths = Annotated[Constant | Uniform | Normal | Lognormal | Empirical, Field(discriminator="distribution")]


# --- the parts of a scenario ------------------------------------------------------------------


class Synthetic(_Part):
    """Made-up prompts of common English words; no two alike but for a shared start of `prefix_tokens`.

    `words` counts words, about one token each; `tokens` counts the whole prompt's tokens, template
    included, exactly where the tokenizer is known."""

    words: Lengths | None = None
    tokens: Lengths | None = None
    prefix_tokens: Annotated[int, Field(ge=0, le=MAX_TOKENS)] = 0

    @model_validator(mode="after")
    def _one_unit(self) -> Synthetic:
        if (self.words is None) == (self.tokens is None):
            raise ValueError("exactly one of words and tokens is needed; give tokens: {distribution: constant, value: 512}, for example")
        if self.prefix_tokens and self.tokens is None:
            raise ValueError("prefix_tokens needs tokens; give tokens in place of words")
        return self


class Trace(_Part):
    """Requests that were recorded: `file`, relative to the scenario file, is read line by line.

    `window_s` takes the rows from its start to before its end (null: the trace's end), in the trace's
    own seconds since its first row. Their times are then multiplied by `time_scale`."""

    format: TraceFormatName
    file: Annotated[str, Field(min_length=1)]
    window_s: Annotated[tuple[Annotated[float, Field(ge=0)], Annotated[float, Field(gt=0)] | None] | None, Field(strict=False)] = None
    time_scale: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    timestamp_unit_s: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    block_tokens: Tokens | None = None
    max_model_len: Tokens | None = None
    on_too_long: Literal["skip", "truncate", "fail"] = "fail"
    own_output_tokens: bool = True

    @property
    def timed(self) -> bool:
        """Whether rows of this format say when they came."""
        return self.format not in UNTIMED_FORMATS

    @model_validator(mode="after")
    def _consistent(self) -> Trace:
        if self.window_s is not None and not self.timed:
            raise ValueError(f"a trace of format {self.format} has no times, so window_s means nothing; remove it")
        if self.window_s is not None and self.window_s[1] is not None and self.window_s[0] >= self.window_s[1]:
            raise ValueError(f"window_s starts at {self.window_s[0]:g} and ends at {self.window_s[1]:g}; swap them")
        if self.timestamp_unit_s != 1.0 and self.format != "timed_trace":
            raise ValueError(f"format {self.format} says itself what its times are; remove timestamp_unit_s, or use timed_trace")
        return self


class Prompts(_Part):
    """JSONL `files`, relative to the scenario file, or `synthetic` ones, or those of a `trace`.

    `tokenizer` and `template` belong to what is measured, not to the load: the run fills them in.
    They say by which rule prompt tokens are counted: a folder with tokenizer.json, or `words`."""

    files: Annotated[tuple[str, ...] | None, Field(min_length=1, strict=False)] = None
    synthetic: Synthetic | None = None
    trace: Trace | None = None
    tokenizer: Annotated[str, Field(min_length=1)] | None = None
    template: Literal["chat", "plain"] = "chat"

    @model_validator(mode="after")
    def _one_source(self) -> Prompts:
        if sum(each is not None for each in (self.files, self.synthetic, self.trace)) != 1:
            raise ValueError("exactly one of files, synthetic and trace is needed; give files: [prompts.jsonl], for example")
        return self


class Ramp(_Part):
    """The rate goes from `start_rate` to `end_rate` (requests/s) over the whole run."""

    strategy: Literal["linear", "exponential"]
    start_rate: Rate
    end_rate: Rate


class Arrival(_Part):
    """When requests are sent. `closed` keeps `max_concurrency` in flight; the others are open loop,
    where `max_concurrency` is a cap whose waiting counts in the latency."""

    process: Process
    rate: Annotated[float | Literal["auto"] | None, BeforeValidator(_number_or_auto)] = None
    burstiness: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    ramp: Ramp | None = None
    max_concurrency: Annotated[int, Field(ge=1)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Arrival:
        timed = self.process in ("poisson", "constant", "gamma")
        if timed and (self.rate is None) == (self.ramp is None):
            raise ValueError(f"process {self.process} needs either rate or ramp; give rate: auto, or requests per second")
        if not timed and (self.rate is not None or self.ramp is not None):
            raise ValueError(f"process {self.process} has no rate; remove rate and ramp, or use poisson, constant or gamma")
        if self.process != "gamma" and self.burstiness != 1.0:
            raise ValueError(f"burstiness means nothing to process {self.process}; use process: gamma")
        if self.process == "closed" and self.max_concurrency is None:
            raise ValueError("process closed needs max_concurrency; give the number of requests to keep in flight")
        return self

    def sentence(self) -> str:
        """The load in a few words, such as "Poisson, 1.91 req/s, at most 10 in flight"."""
        if self.process == "closed":
            return f"closed loop, {self.max_concurrency} in flight"
        words = PROCESS_WORDS[self.process]
        if self.process == "gamma":
            words += f" of burstiness {self.burstiness:g}"
        if self.ramp is not None:
            words += f", {self.ramp.strategy} ramp from {self.ramp.start_rate:g} to {self.ramp.end_rate:g} req/s"
        elif self.rate is not None:
            words += ", rate auto" if self.rate == "auto" else f", {_rate_text(self.rate)} req/s"
        return words + (f", at most {self.max_concurrency} in flight" if self.max_concurrency else "")


def _rate_text(rate: float) -> str:
    return f"{rate:.4g}" if rate < 1000 else f"{rate:,.0f}"


class Auto(_Part):
    """For `rate: auto`: probe the engine for `probe_s` at most, then offer `share` of what it carried."""

    share: Annotated[float, Field(gt=0, le=2)] = 0.7
    probe_s: Seconds = 30.0


class Slo(_Part):
    """Service levels that a request must meet to count as goodput; null means not asked for."""

    ttft_ms: Milliseconds | None = None
    tpot_ms: Milliseconds | None = None
    e2e_ms: Milliseconds | None = None


class SamplingKeys(_Part):
    """How tokens are drawn; null leaves a setting to the engine."""

    temperature: Annotated[float, Field(ge=0, le=10)] = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    seed: int | None = None
    ignore_eos: bool = True


class Timeouts(_Part):
    """A request that exceeds one of them is a failure of that class."""

    connect_s: Seconds = 10.0
    first_token_s: Seconds = 120.0
    idle_s: Seconds = 60.0
    total_s: Seconds = 600.0


class Scenario(_Part):
    """A whole scenario file."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
    description: Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\r\n]*$")]
    prompts: Prompts
    output_tokens: Lengths
    arrival: Arrival
    auto: Auto = Field(default_factory=Auto)
    num_requests: Annotated[int, Field(ge=1)] | None = None
    duration_s: Seconds | None = None
    warmup_requests: Annotated[int, Field(ge=0)] = 4
    slo: Slo = Field(default_factory=Slo)
    sampling: SamplingKeys = Field(default_factory=SamplingKeys)
    timeouts: Timeouts = Field(default_factory=Timeouts)
    drain_s: Annotated[float, Field(ge=0)] = 30.0

    _folder: Path = PrivateAttr(default_factory=Path)

    @property
    def folder(self) -> Path:
        """Where relative prompt files are looked for: the folder of the scenario file."""
        return self._folder

    @model_validator(mode="after")
    def _bounded(self) -> Scenario:
        unbounded = self.num_requests is None and self.duration_s is None
        trace = self.prompts.trace
        if unbounded and trace is None:
            raise ValueError("nothing ends the run; give num_requests, duration_s, or both")
        if unbounded and self.arrival.ramp is not None:
            raise ValueError("a ramp goes over num_requests or duration_s; give one of them")
        if self.arrival.process == "at_once" and self.num_requests is None and trace is None:
            raise ValueError("process at_once needs num_requests; give the number of requests to send")
        if self.arrival.process == "trace" and (trace is None or not trace.timed):
            raise ValueError("process trace needs prompts.trace of a format with times; use poisson with a rate")
        return self

    def override(self, changes: Mapping[str, Any]) -> Scenario:
        """A copy with other values, checked as a whole; `self` stays as it is.

        Keys are dotted ("arrival.rate"); a value replaces the whole subtree. None means null.
        Raises UserError that names the key.
        """
        data = self.model_dump()
        for key, value in changes.items():
            *parents, last = key.split(".")
            target = data
            for parent in parents:
                if not isinstance(target.get(parent), dict):
                    target[parent] = {}
                target = target[parent]
            target[last] = value
        changed = checked_yaml.check(data, Scenario, lambda _: f"scenario {self.name}")
        changed._folder = self._folder
        return changed


# --- finding one ------------------------------------------------------------------------------


class BuiltIn(NamedTuple):
    """A scenario that comes with the package."""

    name: str
    description: str


def builtin() -> list[BuiltIn]:
    """All built-in scenarios, by name."""
    loaded = (_load_file(path, path.name) for path in sorted(BUILTIN_FOLDER.glob("*.yaml")))
    return [BuiltIn(each.name, each.description) for each in loaded]


def load(name_or_path: str) -> Scenario:
    """The built-in scenario of that name, or else the YAML file at that path. Raises UserError."""
    names = sorted(path.stem for path in BUILTIN_FOLDER.glob("*.yaml"))
    if name_or_path in names:
        return _load_file(BUILTIN_FOLDER / f"{name_or_path}.yaml", f"{name_or_path}.yaml")
    path = Path(name_or_path)
    if path.exists() or path.suffix in (".yaml", ".yml") or "/" in name_or_path:
        return _load_file(path, name_or_path)
    near = difflib.get_close_matches(name_or_path, names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"built in: {', '.join(names)}."
    raise UserError(f"there is no scenario {name_or_path!r}", f"{hint} A path to a YAML file works too")


def _load_file(path: Path, shown_as: str) -> Scenario:
    scenario = checked_yaml.load(path, Scenario, shown_as=shown_as)
    scenario._folder = path.parent
    return scenario


def scenario_of(run: dict[str, Any]) -> Scenario:
    """The scenario as it was resolved for the run. Raises UserError where run.json doesn't hold it."""
    config = run.get("config")
    content = config.get("scenario") if isinstance(config, dict) else None
    if not isinstance(content, dict):
        raise UserError("run.json holds no scenario", "it was damaged; run again")
    scenario = checked_yaml.check(content, Scenario, lambda _: "run.json, scenario")
    folder = str(config.get("scenario_folder", BUILTIN)) if isinstance(config, dict) else BUILTIN
    scenario._folder = BUILTIN_FOLDER if folder == BUILTIN else Path(folder)
    return scenario


def seed_of(run: dict[str, Any]) -> int:
    """The run's seed. Raises UserError where run.json doesn't hold it."""
    seed = run.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError(f"run.json holds no seed but {seed!r}", "it was damaged; run again")
    return seed


BUILTIN = "built in"


def folder_of(scenario: Scenario) -> str:
    """Where its prompt files lie; the package's own folder has another path on another machine."""
    return BUILTIN if scenario.folder == BUILTIN_FOLDER else str(scenario.folder.absolute())
