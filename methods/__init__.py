"""How it is learned: the method contract and one file per method.

``METHODS`` lists what is built in; ``registry`` adds plugins, ``build_method`` makes a method.
"""

from methods.base import Method
from methods.compose import build_method
from methods.registry import METHODS

__all__ = ["METHODS", "Method", "build_method"]
