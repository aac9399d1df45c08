"""AMC's deep deterministic policy gradient agent (He et al. 2018)."""
