"""What an engine or a server can do, found out by asking it: its capability card."""
