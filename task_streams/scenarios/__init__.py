"""What makes a stream of examples: class order, split, few-shot draw, CIL, DIL and TIL, boxes, fingerprints."""
