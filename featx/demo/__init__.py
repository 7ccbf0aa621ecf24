"""The whole river on embedded images and weights, and how the embedded weights were made."""
