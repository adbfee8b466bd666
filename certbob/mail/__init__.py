"""Mail: how letters are written, and the server they are given to."""
