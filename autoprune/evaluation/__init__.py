"""From widths to scores and costs."""
