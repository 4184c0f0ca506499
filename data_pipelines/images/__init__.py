"""Images: decoding, resizing, views, and the kinds of data that are images alone."""
