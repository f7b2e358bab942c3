"""What drills have shown over time: their records, the page, and two of them side by side."""
