"""Judges. They read the recorded history and nothing else: no process, clock or service."""
