"""Datasets for meta-training and evaluation: Omniglot, mini-ImageNet, image folders and procedural textures."""
