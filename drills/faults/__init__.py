"""Things going wrong, each with its undoing. A fault knows its subject, never the judge."""
