"""Analysis `invariance`: similarity of representations under augmentations."""
