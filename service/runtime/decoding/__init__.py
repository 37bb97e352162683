"""Decodes images in processes of their own."""
