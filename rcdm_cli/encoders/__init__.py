"""Photo → representation: methods, trunks, heads as data, preprocessing."""
