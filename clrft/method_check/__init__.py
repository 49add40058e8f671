"""The method contract, tried on a method."""
