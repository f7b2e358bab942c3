"""Effects rather than associations: what a badge, a price or a place does to conversion."""
