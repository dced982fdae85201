"""Servers by name: the command line that starts each. `{model}` is the checkpoint's folder, `{gguf}` its GGUF file, `{name}` what requests
call it, `{host}` and `{port}` are those of --base-url, `{otlp}` is where --trace-requests receives spans. vLLM's and llama-cpp-python's
have been run here; the others are as their documentation has them."""

from __future__ import annotations

import re
import shlex
from itertools import pairwise

from bytemlperf.errors import UserError, nearest
from engines.contract import Model

AT = "--host {host} --port {port}"
PRESETS = {
    "vllm": f"python3 -m vllm.entrypoints.openai.api_server --model {{model}} --served-model-name {{name}} {AT}",
    "sglang": f"python3 -m sglang.launch_server --model-path {{model}} --served-model-name {{name}} --enable-metrics {AT}",
    "tgi": "text-generation-launcher --model-id {model} --hostname {host} --port {port}",
    "trtllm": f"trtllm-serve {{model}} {AT}",
    "llamacpp": f"llama-server --model {{gguf}} --alias {{name}} --metrics {AT}",
    "llama-cpp-python": "python3 -m llama_cpp.server --model {gguf} --model_alias {name} --n_ctx 0 --interrupt_requests false "
    "--host {host} --port {port}",
    "lmdeploy": "lmdeploy serve api_server {model} --model-name {name} --server-name {host} --server-port {port}",
    "openvino-model-server": "ovms --task text_generation --source_model {model} --model_name {name} "
    "--rest_bind_address {host} --rest_port {port}",
    "ollama": "env OLLAMA_HOST={host}:{port} ollama serve",
}
TRACING = {"vllm": "--otlp-traces-endpoint {otlp}"}
"""What makes them send spans to a receiver."""
_FIELD = re.compile(r"\{(model|gguf|name|host|port|otlp)\}")
_SECRET = re.compile(r"--?[\w-]*(?:key|token|password|secret)[\w-]*")


def command_of(launch: str, *, traced: bool = False) -> list[str]:
    """The words of a preset or of a command line, before they are filled in. Raises UserError for what is neither."""
    if launch in PRESETS:
        return [*PRESETS[launch].split(), *(TRACING.get(launch, "").split() if traced else [])]
    try:
        words = shlex.split(launch)
    except ValueError as error:
        raise UserError(f"--launch is no command line: {error}", "quote it, as in --launch 'vllm serve {model} --port {port}'") from None
    if len(words) < 2:
        raise UserError(f"--launch {launch!r} is unknown", f"give a command line, or a preset: {nearest(launch, list(PRESETS))}")
    return words


def needs_model(words: list[str]) -> bool:
    """Whether it starts with a checkpoint of this machine."""
    return any(field in ("model", "gguf") for word in words for field in _FIELD.findall(word))


def filled(words: list[str], model: Model | None, name: str, host: str, port: int, otlp: str = "") -> list[str]:
    """With every field's value. Raises UserError where the model has no GGUF file."""
    values = {"host": host, "port": str(port), "name": name, "otlp": otlp}
    if model is not None:
        values |= {"model": model.path or model.name, "gguf": model.gguf_path or ""}
        if not model.gguf_path and any("{gguf}" in word for word in words):
            fix = "give --launch the command line with a file: 'llama-server --model FILE.gguf …'"
            raise UserError(f"model {model.name} has no GGUF file", fix)
    return [_FIELD.sub(lambda field: values[field[1]], word) for word in words]


def secrets_of(words: list[str]) -> list[str]:
    """Values of flags that are called keys, tokens or passwords."""
    after = [value for flag, value in pairwise(words) if _SECRET.fullmatch(flag) and not value.startswith("-")]
    return after + [word.partition("=")[2] for word in words if "=" in word and _SECRET.fullmatch(word.partition("=")[0])]
