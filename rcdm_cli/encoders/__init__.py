"""Image → representation: methods, trunks, heads as data, preprocessing."""
