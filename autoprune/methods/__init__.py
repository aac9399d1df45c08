"""Methods that shape a network while it trains, so that little is lost when it is cut."""
