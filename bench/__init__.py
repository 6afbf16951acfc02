"""The gateway benchmark: the same load through nginx, Trunkline and LiteLLM, in one run, by turns.

Start it with `python -m bench.gateway` from the repository's root; README.md says how to read what it prints.
"""
