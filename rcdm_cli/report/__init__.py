"""Results → what a person reads: PNG and JSON."""
