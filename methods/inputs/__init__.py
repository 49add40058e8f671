"""What a model is given: questions, images and clips, encoded; a task's examples as TRL's datasets."""
