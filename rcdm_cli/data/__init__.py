"""Image files and datasets: find, read, crop, augment, encode."""
