"""Gates and stages of published rivals, as good as they can be, for comparison."""
