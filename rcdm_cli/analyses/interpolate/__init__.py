"""Analysis `interpolate`: samples along the path between two representations."""
