"""Backends, which run the layers and networks to be measured."""
