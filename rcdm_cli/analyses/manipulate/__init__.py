"""Analysis `manipulate`: dimensions that an image shares with its neighbours."""
