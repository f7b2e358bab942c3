"""Retrieval peers: what finds candidates, beside Muster's own retrieval."""
