"""Forward passes that start in the middle, after what two networks share."""
