"""Images in the eyes of networks that were trained elsewhere: sets and pairs."""
