"""From records to leaderboards, without PyTorch, Lightning or Hydra."""
