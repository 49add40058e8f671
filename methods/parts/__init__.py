"""What joins a method that learns: penalties, replay, averages, reward shapers; one file each."""
