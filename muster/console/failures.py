"""Errors as sentences: what happened, and what to do on this page."""

from __future__ import annotations

from muster.client import errors


def sentence(error: Exception) -> str:
    """One or two sentences for whoever sits before the page."""
    where = f" ({error.endpoint})" if isinstance(error, errors.MusterError) and error.endpoint else ""
    if isinstance(error, errors.InvalidRequest):
        fields = "; ".join(f"{field}: {text}" for field, text in error.violations)
        return f"The request is refused: {fields or error}. Change it and ask again."
    if isinstance(error, errors.Overloaded):
        return (
            f"The service is busy and refused this at once{where}: {error}."
            " Ask again, or with a longer deadline."
        )
    if isinstance(error, errors.DeadlineExceeded):
        return (
            "No answer came before the deadline. Give it a longer one; the page Replicas shows who answers."
        )
    if isinstance(error, errors.Unavailable):
        return (
            f"No replica is available{where}: {error}. See the page Replicas;"
            " `muster serve --config FILE` starts one."
        )
    if isinstance(error, errors.NotFound | errors.Conflict):
        return f"{error}{where}."
    if isinstance(error, errors.MusterError):
        return f"The service failed{where}: {error}. Its log says more."
    return f"{error or type(error).__name__}"
