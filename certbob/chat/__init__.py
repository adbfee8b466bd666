"""Chat systems whose people get certificates."""
