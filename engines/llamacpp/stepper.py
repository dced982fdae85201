"""libllama, a step at a time: one batch of the next token of every running request and of as much of the prompts as fits.

Requests share one KV cache; one is taken in when a sequence is free and its prompt and answer fit into what is left, in the order in which
they came. Names and meaning of the calls: llama.cpp's `include/llama.h`.
"""

from __future__ import annotations

import sys
from collections import deque
from pathlib import Path
from typing import Any

import msgspec

from engines.contract import EngineUnavailable, Finish, Sampling, Usage
from engines.steps import Job, Made

GGML_TYPES = {"f32": 0, "f16": 1, "q8_0": 8}
FLASH_ATTENTION = {None: -1, False: 0, True: 1}
NO_SEED = 0xFFFFFFFF
ERRORS_FROM = 4  # ggml_log_level: error


class Sequence(msgspec.Struct, kw_only=True):
    """A running request: its number in the cache, what of the prompt is still to be computed, the tokens that are made."""

    number: int
    left: list[int]
    sampler: Any
    room: int
    position: int = 0
    made: list[int] = []
    count: int = 0
    reason: str = ""


class LlamaStepper:
    """Raises EngineUnavailable for a file that llama.cpp can't load, or a cache that it has no memory for."""

    def __init__(self, path: Path, options: Any) -> None:
        import llama_cpp as llama

        self._llama, self._options = llama, options
        self._log = llama.llama_log_callback(_errors_only)
        llama.llama_log_set(self._log, None)
        llama.llama_backend_init()
        model_params = llama.llama_model_default_params()
        model_params.n_gpu_layers = options.gpu_layers
        self._model = llama.llama_model_load_from_file(str(path).encode(), model_params)
        if not self._model:
            raise EngineUnavailable(f"llama.cpp can't load {path.name}", "see its own lines above; is it a whole GGUF file?")
        self._context = llama.llama_init_from_model(self._model, self._context_params())
        if not self._context:
            raise EngineUnavailable("llama.cpp has no memory for its KV cache", "give a smaller --engine-option kv_cache_tokens")
        self._vocab = llama.llama_model_get_vocab(self._model)
        self.trained_context = int(llama.llama_model_n_ctx_train(self._model))
        self._batch = llama.llama_batch_init(options.max_num_batched_tokens, 0, 1)
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._free = list(range(options.max_num_seqs))
        self._room = options.kv_cache_tokens

    def _context_params(self) -> Any:
        options, params = self._options, self._llama.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.kv_unified = options.kv_cache_tokens, options.max_num_seqs, True
        params.n_batch = params.n_ubatch = options.max_num_batched_tokens
        params.n_threads = params.n_threads_batch = options.threads
        params.type_k = params.type_v = GGML_TYPES[options.kv_cache_dtype]
        params.flash_attn_type = FLASH_ATTENTION[options.flash_attention]
        return params

    def add(self, job: Job) -> None:
        """Waits until there is room."""
        self._waiting.append(job)

    def drop(self, job: Job) -> None:
        """Frees its part of the cache."""
        if job.handle is None:
            self._waiting.remove(job)
            return
        llama = self._llama
        llama.llama_memory_seq_rm(llama.llama_get_memory(self._context), job.handle.number, -1, -1)
        llama.llama_sampler_free(job.handle.sampler)
        self._running.remove(job)
        self._free.append(job.handle.number)
        self._room += job.handle.room

    def step(self) -> None:
        """One batch. Raises RuntimeError where llama.cpp can't compute it."""
        self._take_in()
        ends = self._fill()
        if code := self._llama.llama_decode(self._context, self._batch):
            raise RuntimeError(f"llama_decode gave {code}")
        for job, place in ends:
            self._sample(job, place)

    def read(self, job: Job) -> Made | None:
        """The token of the last step."""
        sequence = job.handle
        if sequence is None or not sequence.made:
            return None
        made, sequence.made = sequence.made, []
        if not sequence.reason:
            return made, None
        return made, Finish(reason=sequence.reason, usage=Usage(prompt_tokens=job.prompt_tokens, output_tokens=sequence.count))

    def stats(self, active: int) -> dict[str, float]:
        """Requests running and waiting, room of the KV cache that is given away as a share."""
        running = len(self._running)
        whole = self._options.kv_cache_tokens
        return {"running": float(running), "waiting": float(active - running), "kv_cache_usage": 1 - self._room / whole}

    def close(self) -> None:
        """Give everything back."""
        llama = self._llama
        for job in list(self._running):
            self.drop(job)
        llama.llama_batch_free(self._batch)
        llama.llama_free(self._context)
        llama.llama_model_free(self._model)

    def _take_in(self) -> None:
        while self._waiting and self._free:
            job = self._waiting[0]
            room = job.prompt_tokens + job.request.max_tokens
            if room > self._room:
                return
            self._room -= room
            self._waiting.popleft()
            sampler = self._sampler(job.request.sampling)
            job.handle = Sequence(number=self._free.pop(0), left=list(job.prompt), sampler=sampler, room=room)
            self._running.append(job)

    def _fill(self) -> list[tuple[Job, int]]:
        """The batch; the requests whose next token comes of it, with their places in it. Decoding goes first: its `left` is one token."""
        batch, ends = self._batch, []
        batch.n_tokens = 0
        for job in sorted(self._running, key=lambda job: len(job.handle.left) > 1):
            sequence = job.handle
            taken = sequence.left[: self._options.max_num_batched_tokens - batch.n_tokens]
            for token in taken:
                self._put(token, sequence)
            del sequence.left[: len(taken)]
            if taken and not sequence.left:
                batch.logits[batch.n_tokens - 1] = 1
                ends.append((job, batch.n_tokens - 1))
        return ends

    def _put(self, token: int, sequence: Sequence) -> None:
        batch, place = self._batch, self._batch.n_tokens
        batch.token[place], batch.pos[place], batch.logits[place] = token, sequence.position, 0
        batch.n_seq_id[place], batch.seq_id[place][0] = 1, sequence.number
        batch.n_tokens += 1
        sequence.position += 1

    def _sample(self, job: Job, place: int) -> None:
        sequence = job.handle
        token = int(self._llama.llama_sampler_sample(sequence.sampler, self._context, place))
        sequence.count += 1
        sequence.made.append(token)
        sequence.left.append(token)
        if not job.request.sampling.ignore_eos and self._llama.llama_vocab_is_eog(self._vocab, token):
            sequence.reason = "stop"
        elif sequence.count >= job.request.max_tokens:
            sequence.reason = "length"

    def _sampler(self, sampling: Sampling) -> Any:
        llama = self._llama
        chain = llama.llama_sampler_chain_init(llama.llama_sampler_chain_default_params())
        if sampling.temperature > 0:
            parts = [llama.llama_sampler_init_top_k(sampling.top_k)] if sampling.top_k is not None else []
            parts += [llama.llama_sampler_init_top_p(sampling.top_p, 1)] if sampling.top_p is not None else []
            seed = NO_SEED if sampling.seed is None else sampling.seed % NO_SEED
            parts += [llama.llama_sampler_init_temp(sampling.temperature), llama.llama_sampler_init_dist(seed)]
        else:
            parts = [llama.llama_sampler_init_greedy()]
        for part in parts:
            llama.llama_sampler_chain_add(chain, part)
        return chain


def _errors_only(level: int, text: bytes, _data: object) -> None:
    """llama.cpp's log: to standard error from errors on."""
    if level == ERRORS_FROM:
        sys.stderr.write(text.decode("utf-8", "replace"))
