"""Index generations: built in the background by ``build``, verified and memory-mapped by ``open``.

A generation is a folder made once and never changed: everything about the catalogue up to one sequence number
that can be computed ahead of a request, for one bundle. ``CURRENT`` names the newest valid one.
"""
