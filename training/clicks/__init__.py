"""Learning from clicks: how much a position is looked at, what clicks then say, what another order gets."""
