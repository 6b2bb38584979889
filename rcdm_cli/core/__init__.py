"""Building blocks that every other package uses: errors, specs, files, downloads."""
