"""What this computer is, or another one: graphics cards in bytes and rates."""
