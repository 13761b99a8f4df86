"""Made-up data sets: cells as geometry, the textures inside them, protein patterns, and one module a competition."""
