"""Who signs: one adapter a file."""
