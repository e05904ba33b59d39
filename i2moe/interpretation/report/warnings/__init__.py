"""What a report warns of."""
