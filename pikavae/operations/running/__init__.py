"""Run the four stages, or say what they would do, and retrain when there are new pictures."""
