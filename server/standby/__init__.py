"""Who may write: the lease, the role it gives, and how it changes hands."""
