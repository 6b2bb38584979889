"""Image files and data sets: find, read, crop, augment."""
