"""Learning what shoppers take next so that no single shopper can be told from the result."""
