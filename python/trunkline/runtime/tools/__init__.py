"""The tools that the worker itself carries out.

`toolbox.py` is what one session may call; `calls.py` carries the calls out; the other files are where tools come from.
"""
