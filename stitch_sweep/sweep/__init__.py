"""Running a sweep: Ray Tune, workers, the searcher, resources and progress."""
