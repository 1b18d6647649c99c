"""Benches of the CPU layers.

``make bench`` (``python -m bench``) runs everything and renders RESULTS.md, about half an hour on two cores;
``python -m bench --quick`` runs a part of it without keeping the results, ``python -m bench -k "lstm and T100-B32"``
runs the rows named and merges them into the kept ones (``-k test_variant``, ``-k test_options``: a file of them),
``python -m bench.quick lstm 100 32 256 --bwd`` (or ``PeepholeLSTM``) times one row while developing.

cases.py says what is timed, contestants.py whom, timing.py how, check.py what must hold first. variants.py and loops.py
are the same for the cells torch.nn has not, options.py for what is timed against this package's own plain layer;
report.py renders all of it, with reasons.py beside what misses its target.
"""
