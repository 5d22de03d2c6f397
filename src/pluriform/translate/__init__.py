"""Images translated into other images: one network for any task (TSIT), its rivals, and what they are trained with."""
