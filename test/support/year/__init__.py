"""A year in the life of the scheduler: `calendar` and `rules` say what has to happen, `disk` what can go wrong, `year` performs it."""
