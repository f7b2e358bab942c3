"""Why a bundle was refused."""

from __future__ import annotations


class BundleError(Exception):
    """A bundle that must not be served, or could not be written.

    file: the offending file, relative to the bundle's folder, "." for the folder itself.
    reason: what is wrong with it, one clause.
    """

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


class BundleSchemaError(BundleError):
    """The bundle is of a schema this version cannot read: update the software, or export the bundle anew."""


class BundleDamagedError(BundleError):
    """A file is missing, foreign, changed, truncated or larger than declared: copy the bundle again."""


class BundleContentError(BundleError):
    """The files are as declared but say something a bundle must not: export the bundle anew."""


class BundleGateError(BundleError):
    """The drills that must have held with the bundle did not, or nobody trusted says so."""


class BundleSignatureError(BundleError):
    """Nobody trusted vouches for the bundle: have it signed, or name its signer's key as a trusted one."""
