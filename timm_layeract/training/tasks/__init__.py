"""What is trained for, by a recipe's `task`: images to classify, to segment, texts."""

from typing import Any

from .classification import Classification
from .segmentation import Segmentation
from .text import TextClassification

__all__ = ["TASKS", "Classification", "Segmentation", "TextClassification"]

TASKS: dict[str, Any] = {"classification": Classification, "segmentation": Segmentation, "text": TextClassification}
