"""Tables that need networks, images and stored stitches."""
