"""Seed sets that MLCommons publishes (submission rules 4.6), and what a run takes of one."""

from __future__ import annotations

from typing import NamedTuple


class SeedSet(NamedTuple):
    """`cohort` is the one it was published for; it can be adopted in that and the three that follow."""

    cohort: str
    scheduler_rng_seed: int
    sample_index_rng_seed: int
    model_seed: int


SEED_SETS = {"A": SeedSet("2026-10-C1", 10487924139932647040, 586478644936801402, 9315206023656308754)}
"""As of mlcommons/endpoints_policies, seedset.yaml."""


def sampling_seed(seeds: SeedSet) -> int:
    """The model seed as a server's signed 64 bits."""
    return seeds.model_seed - (1 << 64) if seeds.model_seed >= 1 << 63 else seeds.model_seed


def bound(seed: int, sampling: int | None, seed_set: str | None) -> bool:
    """Whether a run was sent with the seeds of this set."""
    seeds = SEED_SETS.get(seed_set or "")
    return seeds is not None and seed == seeds.sample_index_rng_seed and sampling == sampling_seed(seeds)


def runtime_seeds(seed: int, sampling: int | None, seed_set: str | None) -> dict[str, int]:
    """For point.yaml: those of the bound set where the run used it (a closed loop draws no times, so its scheduler has no seed of
    its own), else the run's own."""
    if bound(seed, sampling, seed_set):
        seeds = SEED_SETS[seed_set or ""]._asdict()
        return {name: value for name, value in seeds.items() if name != "cohort"}
    return {"scheduler_rng_seed": seed, "sample_index_rng_seed": seed} | ({} if sampling is None else {"model_seed": sampling})
