"""Callers in Python that an application may begin from; Go and TypeScript have folders of their own."""
