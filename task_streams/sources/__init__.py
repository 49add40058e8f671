"""How files become records and examples: folders, lists, tables, COCO and VOC, clips, questions; decoded once."""
