"""`vllm bench serve` without the command `vllm`, which looks for a distribution of that name; the CPU build has another.

On machines without AVX-512 importing vllm.benchmarks with the CPU build ends the process: its row says so.
"""

import argparse

from vllm.benchmarks.serve import add_cli_args, main

parser = argparse.ArgumentParser(prog="vllm bench serve")
add_cli_args(parser)
main(parser.parse_args())
