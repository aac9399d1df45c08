"""What runs a layer or a network to be measured."""
