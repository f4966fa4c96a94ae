"""What goes to browsers and other clients of HTTP, and what comes from them, beside the dialects of the chat."""
