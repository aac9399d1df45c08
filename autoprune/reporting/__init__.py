"""What a search found, for people: a page, a comparison, an explanation of every width."""
