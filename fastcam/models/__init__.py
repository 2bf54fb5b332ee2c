"""The embedded model, and models by name."""

from .efficientnet_lite0 import EfficientNetLite0, efficientnet_lite0
from .loading import LoadedModel, load_model
from .preprocessing import Preprocessing

__all__ = ["EfficientNetLite0", "LoadedModel", "Preprocessing", "efficientnet_lite0", "load_model"]
