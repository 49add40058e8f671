"""What is asked outside of the stream: printed glyphs, and sets of questions."""
