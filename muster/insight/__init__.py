"""What shoppers did, as figures with intervals: read (`reading`), cleaned (`cleaning`), counted, shown.

`simulate` makes behaviour whose truth is known, for tests and for those who have no data yet.
"""
