"""Read models, a file a view, and the engine that fills them."""
