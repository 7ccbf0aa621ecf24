"""Encoded bytes to RGB pixels: where images come from, how they are decoded, how they are fed."""
