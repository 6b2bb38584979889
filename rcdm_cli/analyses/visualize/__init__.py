"""Analysis `visualize`: samples from the representations of images."""
