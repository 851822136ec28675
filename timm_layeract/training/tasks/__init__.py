"""What is trained for, by a recipe's `task`: images to classify, to segment, texts."""

from .classification import Classification
from .protocol import NamedTask, Task
from .segmentation import Segmentation
from .text import TextClassification

__all__ = ["TASKS", "Classification", "NamedTask", "Segmentation", "Task", "TextClassification"]

TASKS: dict[str, type[NamedTask]] = {
    "classification": Classification,
    "segmentation": Segmentation,
    "text": TextClassification,
}
