"""What runs on a GPU: imported only where ``ranking.device`` asks for one, for it may need torch."""
