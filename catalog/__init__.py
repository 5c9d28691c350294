"""What exists: model files, the variants that they make, and the names that people call them by."""
