"""An image pipeline that learns from a folder of images with captions."""
