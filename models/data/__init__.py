"""Data sets as classes of images: Omniglot, folders of class folders and procedural textures.

They refuse to know episodes, nets and training: they hand out uint8 images of one class at one size.
"""
