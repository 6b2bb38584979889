"""Analysis `tune`: sampler, steps and guidance of a bundle."""
