"""Image decoding in isolated processes."""
