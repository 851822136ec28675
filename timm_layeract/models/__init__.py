"""Architectures: importing this package registers every entrypoint with timm."""

from . import resnet_cifar, resnet_layeract

__all__ = ["resnet_cifar", "resnet_layeract"]
