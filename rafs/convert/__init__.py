"""OCI images to RAFS images: `convert_image` is the entry point.

Reading order: `image` (the whole path), `layer` (one layer, and what is remembered of it), `work_dir`,
`bootstrap_layer`, `document` (manifest and configuration), `dictionary`, `local`, `progress`.
"""

from rafs.convert.image import ConvertResult, convert_image
from rafs.convert.options import ConvertOptions, KeepOci

__all__ = ["ConvertOptions", "ConvertResult", "KeepOci", "convert_image"]
