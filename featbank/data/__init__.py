"""Which images: where they are, what the index knows of them, and how their bytes become pixels."""
