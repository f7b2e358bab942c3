"""The commands of `muster`, a module for each group; what they share of arguments, failures and output."""
