"""What a source is: its layout, family, components and precisions, from headers and configs."""
