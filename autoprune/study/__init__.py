"""The record of a search."""
