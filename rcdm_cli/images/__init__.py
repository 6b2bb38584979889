"""Photos in, pictures out: find, read, crop, data sets, grids."""
