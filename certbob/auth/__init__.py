"""Who vouches for people: one adapter a file."""
