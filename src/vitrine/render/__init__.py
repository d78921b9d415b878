"""The renderer behind `data/sample`: items, their shapes and materials, scenes. Requires the `[render]` extra."""
