"""Benches of the CPU layers.

``make bench`` (``python -m bench``) runs the grid and renders RESULTS.md, about a quarter of an hour on two cores;
``python -m bench --quick`` runs a part of it without keeping the results, ``python -m bench -k "lstm and T100-B32"``
runs the rows named and merges them into the kept ones, ``python -m bench.quick lstm 100 32 256 --bwd`` times one row
while developing. cases.py says what is timed, contestants.py whom, timing.py how, check.py what must hold first.
"""
