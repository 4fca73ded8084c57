"""Where responders are found (`twisted.plugin`): other packages install modules here, on any part of the path."""

from twisted.plugin import pluginPackagePaths

__path__.extend(pluginPackagePaths(__name__))
__all__: list[str] = []
