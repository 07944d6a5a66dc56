"""A small world of moving shapes: clips with captions, a CogVideoX that generates them, an oracle that reads them."""
