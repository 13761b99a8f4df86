"""The only training loop and the only prediction loop, and what they stand on."""
