"""What a person types: one file per command, which parses, calls and prints."""
