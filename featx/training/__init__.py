"""Training a network end to end: images in memory, a warm start from a head, the loop, the recipe.

What :mod:`featx.finetuning` is made of; nothing here looks at the test images.
"""
