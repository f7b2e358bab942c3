"""Rehearsed failures: start real replicas, load them, break something, judge what the callers saw.

Every drill is a module runnable as ``python -m drills.NAME``; `drills.book` lists them. A drill says what
should stay true, drives open-loop traffic, injects its fault, always rolls it back, and exits 0 (held), 10
(deviated) or 20 (inconclusive).

`drills.curve` and `drills.demo` stand on the same clusters and loads, but have no hypothesis: one measures
the quality served by deadline and load, the other shows what there is.
"""
