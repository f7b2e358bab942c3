"""From feedback to people who judge, and back to judgements for training."""
