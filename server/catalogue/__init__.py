"""The live catalogue: the log (`store`, `log`), what follows it (`tail`), and their errors (`errors`)."""
