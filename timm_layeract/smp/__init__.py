"""LayerAct in segmentation_models_pytorch's registries: encoders, architectures, and saving without loss.

`encoders` has the ResNets that run LayerAct, `architectures` SMP's networks with other activations, `networks` finds
them by name. Importing this
package registers both with SMP, which `timm_layeract.compat.when_imported` does as soon as SMP is imported.
"""

from .architectures import SMP_ACTIVATIONS, create_model
from .by_name import load_by_name
from .encoders import resnet_encoder

__all__ = ["SMP_ACTIVATIONS", "create_model", "load_by_name", "resnet_encoder"]
