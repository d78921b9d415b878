"""The renderer behind `data/sample`: items, their shapes and materials, scenes. Needs the extra `[render]`."""
