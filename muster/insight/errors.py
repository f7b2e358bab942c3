"""What can go wrong with an analysis."""

from __future__ import annotations


class InsightError(Exception):
    """The events cannot be analysed. The message says where, what, and what to do."""
