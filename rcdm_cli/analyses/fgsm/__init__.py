"""Analysis `fgsm`: robustness of representations to adversarial attacks."""
