"""The shapes of request bodies, declared as types. What they mean and how they are refused is elsewhere."""
