"""Architectures: importing this package registers every entrypoint with timm."""

from . import perceptron, plain_cnn, resnet_cifar, resnet_layeract, text_rcnn, unet_layeract

__all__ = ["perceptron", "plain_cnn", "resnet_cifar", "resnet_layeract", "text_rcnn", "unet_layeract"]
