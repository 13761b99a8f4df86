"""Pictures of images, cells and opinions: arrays in, arrays out, 8-bit RGB."""
