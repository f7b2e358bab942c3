"""What protects shoppers, as pure functions: pseudonyms, scrubbed texts, suppressed small counts.

`pseudonyms` makes names that only the holder of a secret can lead back to a shopper, `scrub` takes
personal data out of free text, `counts` hides groups that are too small, `forms` knows how a text may be
written elsewhere. `floods` finds those who act faster than people do, for all that learns from what
shoppers did.
"""
