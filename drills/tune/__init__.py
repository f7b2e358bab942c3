"""Settings from drills: a search over a deployment's settings by what rehearsed failures cost with them."""
