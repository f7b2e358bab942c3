"""Real replicas of one machine, what they sell, and the traffic that callers send them."""
