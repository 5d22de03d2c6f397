"""Other translators on the same game and data: pix2pix, SPADE, CycleGAN, MUNIT."""
