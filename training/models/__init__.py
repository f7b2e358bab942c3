"""Networks and tree ensembles; no stage, no file but their own."""
