"""Analysis `evaluate`: quality of a bundle's samples."""
