"""Real images in, real images out."""
