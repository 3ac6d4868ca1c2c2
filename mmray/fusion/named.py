"""{name: module} for names the user chose.

`nn.ModuleDict` refuses names that are also attributes of a module (`type`, `values`, `training`), and a
feature or target may well be called so. The names stay in the state dict, so weights can be moved between
models with other sets of modalities.
"""

from collections.abc import Mapping
from typing import Generic, TypeVar, cast

from torch import nn

__all__ = ["NamedModules"]

M = TypeVar("M", bound=nn.Module)


class NamedModules(nn.Module, Generic[M]):
    """Modules by name, in sorted order; `video` is `video_` in the state dict."""

    def __init__(self, modules: Mapping[str, M]):
        super().__init__()
        self.names = sorted(modules)
        for name in self.names:
            self.add_module(f"{name}_", modules[name])

    def __getitem__(self, name: str) -> M:
        return cast(M, self.get_submodule(f"{name}_"))
