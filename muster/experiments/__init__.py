"""Experiments: who gets which variant, whether that went as planned, what came of it."""
